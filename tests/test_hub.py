"""Models in a folder, as Hugging Face has them."""
import json
import struct

import pytest
import torch
from micro_configs import ARCH, MICRO, shrink_model
from mmengine import Config

import slak_mm
from slak_mm import hub
from slak_mm.checkpoints import CheckpointError
from slak_mm.errors import InputError, UserError
from slak_mm.models.build import build_model
from slak_mm.zoo import find_config

pytest.importorskip('safetensors')


def randomize(model):
    torch.manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(.1, 1)
    return model.eval()


def whole(name):
    cfg = shrink_model(Config.fromfile(find_config(f'{name}.py')))
    return cfg, randomize(build_model(cfg))


def assert_equal(model, other):
    assert type(model) is type(other)
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in mine.items())


@pytest.mark.parametrize('options', [dict(arch=ARCH), MICRO, dict(MICRO, kernel_sizes=(7, ) * 4, width_factor=1.)])
def test_a_backbone_comes_back(tmp_path, options):
    model = randomize(slak_mm.SLaK(**options, norm_cfg=dict(type='BN')))
    again = slak_mm.from_pretrained(slak_mm.save_pretrained(model, tmp_path / 'mine'))
    assert_equal(model, again)
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(*pair) for pair in zip(model(x), again(x))) and not again.training


@pytest.mark.slow
@pytest.mark.parametrize('name', ['slak_t_300e_in1k', 'upernet_slak_t_160k_ade20k', 'cascade_mask_rcnn_slak_t_1x_coco'])
def test_a_whole_model_comes_back(tmp_path, name):
    cfg, model = whole(name)
    model.dataset_meta = dict(classes=('wall', 'sky'), palette=[[1, 2, 3], [4, 5, 6]])
    again = slak_mm.from_pretrained(slak_mm.save_pretrained(model, tmp_path, cfg, dict(mIoU=47.6), 'apache-2.0', 'my model'))
    assert_equal(model, again)
    assert list(again.dataset_meta['classes']) == ['wall', 'sky'] and again.cfg.default_scope == cfg.default_scope
    card = (tmp_path / 'README.md').read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n') and '| mIoU | 47.6 |' in card and '# my model' in card
    assert f'{sum(p.numel() for p in model.parameters()):,} parameters; 100.0% of its weights are not zero' in card
    # and what comes back can be saved again
    assert_equal(model, slak_mm.from_pretrained(slak_mm.save_pretrained(again, tmp_path / 'again')))


def test_of_a_student_with_a_teacher_the_student_is_saved(tmp_path):
    cfg, plain = whole('slak_t_300e_in1k')
    teacher = dict(cfg.model, init_cfg=dict(type='Pretrained', checkpoint='none.pth'))
    losses = [dict(type='slak_mm.NKDLoss'), dict(type='slak_mm.FDLoss', student='backbone.stages.3', channels=(26, 26))]
    distilled = Config(dict(cfg, model=dict(type='slak_mm.DistilledClassifier', student=cfg.model, teacher=teacher, losses=losses)))
    model = randomize(build_model(distilled))
    again = slak_mm.from_pretrained(slak_mm.save_pretrained(model, tmp_path, distilled))
    assert type(again) is type(plain) and again.state_dict().keys() == plain.state_dict().keys()
    assert f'{sum(p.numel() for p in plain.parameters()):,} parameters' in (tmp_path / 'README.md').read_text()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x, mode='tensor'), model(x, mode='tensor'))


def test_density_in_the_card(tmp_path):
    model = randomize(slak_mm.SLaK(ARCH, norm_cfg=dict(type='BN')))
    for p in model.parameters():
        if p.ndim > 1:
            p.data.view(-1)[::2] = 0
    slak_mm.save_pretrained(model, tmp_path)
    assert '50.0% of its weights are not zero' in (tmp_path / 'README.md').read_text()


def test_a_config_that_is_not_the_models_is_refused(tmp_path):
    cfg, model = whole('slak_t_300e_in1k')
    cfg.model.head.num_classes = 7
    with pytest.raises(InputError, match=r"2 weights differ, as 'head.fc.bias', which is .*1000.* in the model and .*7"):
        slak_mm.save_pretrained(model, tmp_path, cfg)
    with pytest.raises(InputError, match='The config of this ImageClassifier is not known: give the one'):
        slak_mm.save_pretrained(model, tmp_path)
    cfg.model.head.num_classes = float('nan')
    with pytest.raises(InputError, match='config.json.model.head.num_classes is nan, which JSON has not'):
        slak_mm.save_pretrained(model, tmp_path, cfg)
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def saved(tmp_path):
    return slak_mm.save_pretrained(randomize(slak_mm.SLaK(ARCH, norm_cfg=dict(type='BN'))), tmp_path / 'saved')


def change(saved, **changes):
    cfg = json.loads((saved / 'config.json').read_text())
    cfg['model'].update(changes)
    (saved / 'config.json').write_text(json.dumps(cfg))


@pytest.mark.parametrize('node', [
    dict(type='subprocess.check_output', args=['touch', 'PWNED']),
    dict(type='os.system', command='touch PWNED'),
    dict(type='mmengine.fileio.put_text', obj='x', filepath='PWNED'),
    dict(type='torch.hub.load', repo_or_dir='x/y', model='z'),
    dict(type='mmengine.MODELS'),
    dict(type='Runner'),
    dict(type=['BN']),
    dict(type="__import__('os').system('touch PWNED')", iou_threshold=.5),
])
def test_a_hostile_config_is_not_run(saved, node, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(saved, norm_cfg=node)
    with pytest.raises(InputError, match='which is no registered part of a model. Nothing was run'):
        slak_mm.from_pretrained(saved)
    change(saved, norm_cfg=dict(type='BN'), extra=[dict(a=dict(node))])
    with pytest.raises(InputError, match='Nothing was run'):
        slak_mm.from_pretrained(saved)
    assert not (tmp_path / 'PWNED').exists()


def test_scopes_in_a_config_are_refused(saved):
    change(saved, norm_cfg=dict(type='BN', _scope_='antigravity'))
    with pytest.raises(InputError, match="_scope_='antigravity', which is none of"):
        slak_mm.from_pretrained(saved)


def test_an_unknown_argument_is_one_line(saved):
    change(saved, kernels=51)
    with pytest.raises(InputError, match="cannot be built: .*unexpected keyword argument 'kernels'"):
        slak_mm.from_pretrained(saved)


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack('<Q', len(text)) + text


@pytest.mark.parametrize('content', [
    b'', b'x' * 100,
    struct.pack('<Q', 2**60) + b'{}',
    header(a=dict(dtype='F32', shape=[10**9, 10**9], data_offsets=[0, 8])) + b'0' * 8,
    header(a=dict(dtype='F32', shape=[2], data_offsets=[0, 8])) + b'0' * 4,
    header(a=dict(dtype='F32', shape=[2], data_offsets=[-8, 8])) + b'0' * 8,
    header(a=dict(dtype='F99', shape=[2], data_offsets=[0, 8])) + b'0' * 8,
    b'\x80\x04cos\nsystem\n(S"touch PWNED"\ntR.',
])
def test_hostile_weights_are_refused_in_one_line(saved, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved / 'model.safetensors').write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        slak_mm.from_pretrained(saved)
    assert '\n' not in str(error.value) and not (tmp_path / 'PWNED').exists()


def test_weights_of_another_model_are_refused(saved, tmp_path):
    other = slak_mm.save_pretrained(slak_mm.SLaK(MICRO['arch'], kernel_sizes=(7, ) * 4, norm_cfg=dict(type='BN')), tmp_path / 'other')
    (saved / 'model.safetensors').write_bytes((other / 'model.safetensors').read_bytes())
    with pytest.raises(CheckpointError, match='does not fit'):
        slak_mm.from_pretrained(saved)


@pytest.mark.parametrize('file, content, error, message', [
    ('config.json', None, FileNotFoundError, 'has no config.json'),
    ('model.safetensors', None, FileNotFoundError, 'has no model.safetensors'),
    ('config.json', '{', InputError, 'is no JSON'),
    ('config.json', '[]', InputError, 'has no "model"'),
])
def test_a_folder_that_is_not_whole(saved, file, content, error, message):
    (saved / file).unlink()
    if content is not None:
        (saved / file).write_text(content)
    with pytest.raises(error, match=message):
        slak_mm.from_pretrained(saved)


def test_upload_and_download(saved, monkeypatch, tmp_path):
    """Through huggingface_hub's own calls, without a network: what it is asked for, and with what."""
    huggingface_hub = pytest.importorskip('huggingface_hub')
    seen = {}

    class Api:

        def __init__(self, token):
            seen['token'] = token

        def create_repo(self, repo_id, **options):
            seen['create'] = repo_id, options

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen['model'] = slak_mm.from_pretrained(folder_path)
            return f'https://huggingface.co/{repo_id}'

    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    model = slak_mm.from_pretrained(saved)
    assert slak_mm.push_to_hub(model, 'me/mine', private=True, token='t') == 'https://huggingface.co/me/mine'
    assert seen['token'] == 't' and seen['create'] == ('me/mine', dict(private=True, exist_ok=True))
    assert_equal(model, seen['model'])

    def snapshot_download(repo_id, revision, allow_patterns):
        if repo_id != 'me/mine':
            raise OSError('There is no such repository\nand more lines')
        seen['download'] = revision, allow_patterns
        return str(saved)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    assert_equal(model, slak_mm.from_pretrained('me/mine', revision='v1'))
    assert seen['download'] == ('v1', ['config.json', 'model.safetensors', 'README.md'])
    with pytest.raises(FileNotFoundError, match='me/other is no folder here, and cannot be had .*: There is no such repository$'):
        slak_mm.from_pretrained('me/other')


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='pip install huggingface_hub'):
        hub.push_to_hub(None, 'me/mine')
