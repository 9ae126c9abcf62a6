import json

import numpy as np
import pytest
import torch
from hostile_helpers import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from slak_mm.analysis.erf_models import from_config, labels

SMALL = ('--size', '64', '--num-images', '2')


@pytest.fixture
def erf(capsys):
    """Runs the tool in this process; returns its output, or the message of its exit."""

    def run(*args):
        run_tool('visualize_erf', *args)
        return capsys.readouterr().out

    return run


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'micro.py'
    path.write_text("default_scope = 'mmpretrain'\n"
                    "model = dict(type='ImageClassifier', backbone=dict(type='slak_mm.SLaK', width_factor=1.,\n"
                    '             arch=dict(depths=(1, 1, 1, 1), channels=(4, 4, 8, 8))),\n'
                    "             head=dict(type='LinearClsHead', num_classes=2, in_channels=8))\n")
    return path


def test_random_weights_and_noise(erf, config, tmp_path):
    printed = erf(config, '--out', tmp_path / 'out', *SMALL)
    written = json.loads((tmp_path / 'out/erf.json').read_text())
    ratios = written['models']['micro']['area_ratios']
    assert list(ratios) == ['20%', '30%', '50%', '99%'] and list(ratios.values()) == sorted(ratios.values())
    assert ' | '.join(f'{ratio:.1%}' for ratio in ratios.values()) in printed
    assert written['settings']['checkpoints'] == 'random weights' and written['settings']['num_images'] == 2
    assert np.load(tmp_path / 'out/erf.npz')['micro'].shape == (64, 64)
    assert (tmp_path / 'out/erf.png').stat().st_size > 5_000


def test_images_with_other_channels(erf, config, tmp_path):
    config.write_text(config.read_text().replace('width_factor=1.', 'width_factor=1., in_channels=5'))
    erf(config, '--out', tmp_path / 'out', *SMALL)
    assert np.load(tmp_path / 'out/erf.npz')['micro'].shape == (64, 64)
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (40, 50)).save(tmp_path / 'images/one.png')
    with pytest.raises(SystemExit, match='takes 5 channels'):
        erf(config, '--images', tmp_path / 'images', '--out', tmp_path / 'out', *SMALL)


def test_checkpoint_and_photographs(erf, config, tmp_path):
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}, message_hub={}), tmp_path / 'a.pth')
    (tmp_path / 'images').mkdir()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)).save(tmp_path / 'images/one.png')
    erf(config, '--checkpoint', tmp_path / 'a.pth', '--images', tmp_path / 'images', '--out', tmp_path / 'out', *SMALL)
    written = json.loads((tmp_path / 'out/erf.json').read_text())
    assert [*written['models']] == ['micro, a.pth'] and written['settings']['num_images'] == 1


def test_models_of_one_name_are_all_there(erf, config, tmp_path):
    (tmp_path / 'b').mkdir()
    other = tmp_path / 'b' / config.name
    other.write_text(config.read_text())
    erf(config, other, '--out', tmp_path / 'out', *SMALL)
    names = [f'{tmp_path.name}/micro', 'b/micro']
    assert [*json.loads((tmp_path / 'out/erf.json').read_text())['models']] == names
    assert [*np.load(tmp_path / 'out/erf.npz')] == names


def test_labels():
    assert labels(['x/a.py', 'x/b.py']) == ['a', 'b']
    assert labels(['x/a.py', 'x/a.py'], ['x/1.pth', 'y/2.pth']) == ['a, 1.pth', 'a, 2.pth']
    assert labels(['x/a.py', 'y/a.py'], ['x/1.pth', 'y/1.pth']) == ['x/a, 1.pth', 'y/a, 1.pth']
    assert labels(['x/a.py', 'x/a.py'], ['x/1.pth', 'y/1.pth']) == ['x/a, x/1.pth', 'x/a, y/1.pth']
    assert labels(['x/a.py', 'x/a.py']) == ['a', 'a (2)']


@pytest.mark.parametrize('args, message', [
    (['none.py'], 'none.py is not there'),
    (['CONFIG', '--checkpoint', 'a.pth', 'b.pth'], 'one for each of the 1 configs'),
    (['CONFIG', '--checkpoint', 'none.pth'], 'none.pth is not there'),
    (['--images', 'nowhere'], 'nowhere has no images'),
    (['--size', '16'], 'at least 32'),
])
def test_errors_are_one_line(erf, config, args, message, capsys):
    with pytest.raises(SystemExit) as exit:
        erf(*[config if arg == 'CONFIG' else arg for arg in args])
    assert exit.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_checkpoint_that_does_not_fit(erf, config, official):
    with pytest.raises(SystemExit, match='^error: .* does not fit .*micro.py'):
        erf(config, '--checkpoint', official, *SMALL)


def test_blocks_at_random_weights_contribute(config):
    backbone = from_config(str(config), seed=0)
    assert (backbone.stages[0][0].gamma == 1).all()
