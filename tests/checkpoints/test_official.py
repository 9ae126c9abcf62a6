"""The twelve files of the authors, in full size: synthetic ones, in their formats, load whole."""
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine import Config

from slak_mm.checkpoints import CheckpointError, convert_state_dict, official
from slak_mm.models.build import build_model
from slak_mm.registry import enter_scope

ROOT = Path(__file__).parents[2]
BRANCHES = dict(tall='LoRA1', wide='LoRA2', small='small_conv', full='lkb_origin')
pytestmark = pytest.mark.slow


def theirs(name: str, downstream: bool) -> str:
    """A name of ours as the authors' code gives it."""
    name = re.sub(r'(?<=large_kernel\.)(\w+)', lambda match: BRANCHES[match[0]], name)
    if downstream:
        return name
    return name.replace('backbone.norm3.', 'norm.').replace('backbone.', '').replace('head.fc.', 'head.')


def synthetic(file):
    """A model without memory, and a file of the authors for it: every weight is there, and zero."""
    cfg = Config.fromfile(ROOT / 'configs' / file.config)
    enter_scope(cfg)
    with torch.device('meta'):
        model = build_model(cfg)
    downstream = cfg.default_scope != 'mmpretrain'
    # one zero each, repeated: 158 million of them would take their time
    weights = {theirs(name, downstream): torch.zeros((), dtype=value.dtype).expand(value.shape)
               for name, value in model.state_dict().items()}
    if downstream:
        return model, dict(meta=dict(mmcv_version='1.3.0'), state_dict=weights, optimizer={})
    return model, dict(model=weights, optimizer={}, epoch='best', scaler={})


@pytest.mark.parametrize('file', official.FILES, ids=[file.save_as for file in official.FILES])
def test_a_file_of_full_size_loads_whole(file, tmp_path, monkeypatch):
    model, checkpoint = synthetic(file)
    weights = checkpoint.get('state_dict') or checkpoint['model']
    missing, unexpected = model.load_state_dict(dict(convert_state_dict(weights)), strict=False, assign=True)
    assert not missing and not unexpected
    assert not any(value.is_meta for value in model.state_dict().values())
    # what --describe says of it
    path = tmp_path / file.save_as
    path.write_bytes(b'abc')
    monkeypatch.setattr(official, 'load_file', lambda path: checkpoint)
    description = official.describe_file(str(path))
    assert file in official.official_of(description) and description.zeros == 1
    assert description.sha256 == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' and description.size == 3
    text = '\n'.join(official.lines(path, description))
    assert file.config in text and f'save it as checkpoints/{file.save_as}; theirs: {file.result}' in text
    if file.config.startswith('slak'):
        assert description.starts and all('in1k' not in name for name in description.starts)


def test_each_config_looks_for_a_file_of_this_list():
    names = {file.save_as for file in official.FILES}
    for path in ROOT.glob('configs/**/*.py'):
        wanted = re.findall(r"'checkpoints/([\w.]+)'", path.read_text())
        assert set(wanted) <= names, path


def test_the_model_zoo_says_the_same():
    page = (ROOT / 'docs/model_zoo.md').read_text()
    for file in official.FILES:
        row, = re.findall(rf'^\| {re.escape(file.name)} .*', page, re.MULTILINE)
        assert f'`checkpoints/{file.save_as}`' in row and f'(../configs/{file.config})' in row and file.result in row


def run(*args):
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        import convert_checkpoint
        convert_checkpoint.main([*map(str, args)])
    finally:
        sys.path.remove(str(ROOT / 'tools'))


def test_describe(tmp_path, capsys):
    run(ROOT / 'tests/data/slak_micro.pth', '--describe')
    said = capsys.readouterr().out
    assert 'a classifier of 7 classes: slak_mm.SLaK(arch=' in said and '40.0% of its weights are zero' in said
    assert 'configs of this model: none' in said and 'holds model, model_ema' in said
    for args in ([ROOT / 'tests/data/slak_micro.pth'], ['a.pth', 'b.pth', '--describe']):
        with pytest.raises(SystemExit):
            run(*args)
        assert 'give TARGET, the file to write, or --describe' in capsys.readouterr().err
    torch.save(dict(model={'conv.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='other.pth'):
        run(tmp_path / 'other.pth', '--describe')
