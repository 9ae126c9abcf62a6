"""tools/predict.py for each of the three tasks, as a user runs it."""
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

ROOT = Path(__file__).parents[2]


def predict(*args):
    return warm.run(ROOT / 'tools/predict.py', *args)


@pytest.fixture
def images(tmp_path):
    for name in ('a.jpg', 'b.png'):
        pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        (tmp_path / 'images').mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / 'images' / name)
    return tmp_path / 'images'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['slak_t_300e_in1k', 'upernet_slak_micro_toy_ade20k', 'cascade_mask_rcnn_slak_micro_toy_coco'])
def test_pictures_of_a_folder(name, images, tmp_path):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    if name.startswith('slak'):
        cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), channels=(8, 12, 16, 20))
        cfg.model.head.in_channels = 26
    cfg.dump(tmp_path / 'config.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'weights.pth')
    result = predict(images, tmp_path / 'config.py', tmp_path / 'weights.pth', '--out', tmp_path / 'out', '--device', 'cpu')
    assert result.returncode == 0, result.stderr[-3000:]
    pictures = [path for path in (tmp_path / 'out').rglob('*') if path.stem in ('a', 'b')]
    assert sorted(path.stem for path in pictures) == ['a', 'b']
    assert all(np.asarray(Image.open(path)).std() > 0 for path in pictures)


def test_what_is_no_image_is_refused_in_one_line(tmp_path):
    result = predict(tmp_path, ROOT / 'configs/upernet_slak_micro_toy_ade20k.py', 'none.pth')
    assert result.returncode == 1 and 'neither an image nor a folder with images' in result.stderr.strip().splitlines()[-1]
