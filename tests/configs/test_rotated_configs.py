"""Oriented R-CNN beside onedl-mmrotate, which the environment does not bring: a micro one trains, resumes, is tested and predicts."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import warm

ROOT = Path(__file__).parents[2]
CONFIG = f"""
_base_ = '{ROOT}/configs/rotated/oriented_rcnn_slak_t_dota.py'
loader = dict(num_workers=0, persistent_workers=False)
data = dict(data_root='ROOT/')
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))),
    neck=dict(in_channels=[10, 15, 20, 26], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=16)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20)),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=20)))
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = 96, 96
val_pipeline = _base_.val_pipeline
val_pipeline[1].scale = 96, 96
train_dataloader = dict(**loader, dataset=dict(**data, pipeline=train_pipeline))
val_dataloader = dict(**loader, dataset=dict(**data, pipeline=val_pipeline))
test_dataloader = val_dataloader
"""


def write_dota(root, images=2):
    """Bars at any angle, as corners x1 y1 ... x4 y4, class and difficulty."""
    folders = [root / 'trainval' / name for name in ('images', 'annfiles')]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(images):
        rng = np.random.default_rng(i)
        image, lines = rng.integers(90, 130, (96, 96, 3)).astype(np.uint8), []
        for name, color in (('ship', (40, 40, 220)), ('plane', (220, 60, 40))):
            corners = cv2.boxPoints((tuple(rng.uniform(25, 71, 2)), (30, 12), rng.uniform(0, 180)))
            cv2.fillPoly(image, [corners.astype(np.int32)], color)
            lines.append(' '.join(f'{value:.1f}' for value in corners.ravel()) + f' {name} 0\n')
        cv2.imwrite(str(folders[0] / f'{i}.png'), image)
        (folders[1] / f'{i}.txt').write_text(''.join(lines))


def call(tool, *args):
    result = warm.run(ROOT / 'tools' / tool, *args, cwd=ROOT)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_oriented_rcnn(tmp_path):
    pytest.importorskip('mmrotate')
    write_dota(tmp_path / 'dota')
    config = tmp_path / 'micro.py'
    config.write_text(CONFIG.replace('ROOT', str(tmp_path / 'dota')))
    log = call('train.py', config, '--from-scratch', '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    assert 'dota/mAP' in log
    log = call('train.py', config, '--resume', '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1, iter: 1' in log
    assert 'dota/mAP' in call('test.py', config, tmp_path / 'epoch_2.pth', '--work-dir', tmp_path)
    call('predict.py', tmp_path / 'dota/trainval/images', config, tmp_path / 'epoch_2.pth', '--out', tmp_path / 'out')
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 2
