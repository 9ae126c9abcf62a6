"""Merged files and configs/deploy, on micro models whose every term is non-trivial."""
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import randomise
from micro_configs import shrink_model
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[2]
SHAPE = 64, 96
DEPLOY = sorted(path.name for path in (ROOT / 'configs/deploy').glob('*.py'))
pytestmark = pytest.mark.slow


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model).eval()


@pytest.fixture(scope='module')
def micro(tmp_path_factory):
    """Of a config's name: a shrunk config, a checkpoint and its model, not merged."""
    folder = tmp_path_factory.mktemp('micro')

    def make(name):
        config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
        cfg = shrink_model(Config.fromfile(ROOT / f'configs/{name}.py'))
        cfg.dump(config)
        model = build(cfg)
        randomise(model)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return config, checkpoint, model

    return make


@torch.no_grad()
@pytest.mark.parametrize('name', DEPLOY)
def test_a_deploy_config_loads_a_merged_file(micro, tool, tmp_path, capsys, name):
    parent = name.replace('_deploy.py', '')
    _, checkpoint, model = micro(parent)
    cfg = Config.fromfile(ROOT / 'configs/deploy' / name)
    expected = Config.fromfile(ROOT / f'configs/{parent}.py')
    expected.merge_from_dict({'model.backbone.deploy': True, 'custom_hooks': []})
    assert cfg.to_dict() == expected.to_dict()

    tool('convert_checkpoint', checkpoint, tmp_path / 'merged.pth', '--deploy')
    assert 'deploy=True' in capsys.readouterr().out
    weights = torch.load(tmp_path / 'merged.pth', weights_only=True)['state_dict']
    deployed = build(shrink_model(cfg))
    deployed.load_state_dict(weights)
    assert not any('.bn.' in key or '.small.' in key for key in weights if key.startswith('backbone.'))
    images = torch.randn(2, 3, *SHAPE)
    for ours, theirs in zip(deployed.backbone(images), model.backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_deploy_config_is_tested():
    assert len(DEPLOY) == 7
