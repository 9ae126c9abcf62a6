"""Every command of README and docs is run, small, or has a reason not to be; Python examples run, config examples build; links lead
somewhere."""
import re
from functools import lru_cache

import pytest
import torch
import warm
from doc_commands import NOT_RUN, PAGES, ROOT, SMALLER, SUBSTITUTIONS, Workplace, exception, lines, python_blocks, scripts
from micro_configs import shrink_model
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope

COMMANDS = [line for page in PAGES.values() for line, is_command in lines(page) if is_command]
SCRIPTS = {page: text for page, text in scripts().items() if text}
OWN_CONFIGS = {name: code for page in PAGES.values() for name, code in python_blocks(page)[0].items()}
FRAGMENTS = [(page, code) for page, path in PAGES.items() for code in python_blocks(path)[1]]
INDEX = [f'{page}-{code.split("=")[0].strip()}' for page, code in FRAGMENTS]


@pytest.mark.slow
@pytest.mark.parametrize('page', SCRIPTS)
def test_commands_and_scripts_run(page, tmp_path):
    result = Workplace(tmp_path, PAGES[page], SCRIPTS[page]).run(SCRIPTS[page])
    trace = '\n'.join(line for line in result.stderr.splitlines() if line.startswith('+ '))
    assert result.returncode == 0, '\n'.join((trace, result.stdout[-1500:], result.stderr[-3000:]))


@lru_cache(maxsize=None)
def help_of(*command):
    result = warm.run(*command, '--help', cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('command', [command for command in COMMANDS if exception(command) and 'tools/' in command])
def test_options_of_what_is_not_run(command):
    words = command.split('#')[0].split()
    tool = next(word for word in words if word.startswith('tools/'))
    assert (ROOT / tool).is_file()
    # a shell script hands its options to train.py or test.py
    parser = [tool, *(words[2:3] if 'benchmark' in tool or 'study' in tool else ())] if tool.endswith('.py') else [
        f'tools/{"train" if "train" in tool else "test"}.py']
    assert all(word.split('=')[0] in help_of(*parser) for word in words if word.startswith('--'))


def test_each_exception_and_change_concerns_a_command():
    assert not [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in COMMANDS)]
    assert not [pattern for pattern in (*SMALLER, *SUBSTITUTIONS) if not any(re.search(pattern, command) for command in COMMANDS)]


@pytest.mark.parametrize('page', PAGES)
def test_links(page):
    for target, anchor in re.findall(r'\]\(([^)#]*)#?([^)]*)\)', PAGES[page].read_text()):
        path = PAGES[page].parent / target if target else PAGES[page]
        if not target.startswith('http'):
            assert path.exists(), target
            headings = re.findall(r'^#+ (.*)', path.read_text(), re.MULTILINE) if anchor else ()
            assert not anchor or anchor in {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}, anchor


def test_readme_lists_every_page():
    listed = re.findall(r'\]\(docs/(\w+)\.md', (ROOT / 'README.md').read_text().partition('## Documentation')[2])
    assert sorted(listed) == sorted(set(PAGES) - {'README'})


@pytest.mark.parametrize('name', OWN_CONFIGS)
def test_whole_configs_build(name, tmp_path):
    (tmp_path / name).write_text(OWN_CONFIGS[name])
    cfg = Config.fromfile(tmp_path / name)
    # mmpretrain's ConvNeXt reads numbers from a tensor as it is built
    with torch.device('cpu' if 'distilled' in name else 'meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        assert build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        assert all(HOOKS.build(hook) for hook in cfg.get('custom_hooks', []))
    widths = [stage[-1].gamma.numel() for stage in model.backbone.stages]
    parts = cfg.model.get('student', cfg.model)
    head = next(parts[key] for key in ('neck', 'decode_head', 'head') if key in parts)
    assert head.in_channels in (widths, widths[-1])
    assert 'auxiliary_head' not in parts or parts.auxiliary_head.in_channels == widths[2]


@pytest.mark.parametrize('page, code', FRAGMENTS, ids=INDEX)
def test_fragments_build(page, code):
    cfg = Config.fromstring(code, '.py')
    built = [HOOKS.build(hook) for hook in (*cfg.get('custom_hooks', []), *cfg.get('default_hooks', {}).values())]
    if 'model' in cfg:
        cfg.model.backbone.pop('_delete_', None)
        built.append(MODELS.build(cfg.model.backbone))
    if 'optim_wrapper' in cfg:
        base = Config.fromfile(ROOT / 'configs/upernet_slak_t_160k_ade20k.py')
        base.optim_wrapper.paramwise_cfg.clear()
        base.merge_from_dict(dict(optim_wrapper=cfg.optim_wrapper))
        with DefaultScope.overwrite_default_scope('mmseg'):
            built.append(build_optim_wrapper(MODELS.build(shrink_model(base).model), base.optim_wrapper))
    assert built
