"""tools/check.py: our configs with toy data are fine, broken ones give the line that says what is wrong."""
import re

import numpy as np
import pytest
from data_helpers import CONFIGS, TRAIN_JSON, edit, lines, make, repaint
from hostile_helpers import run_tool
from micro_configs import set_data, shrink
from mmengine import Config
from PIL import Image

from slak_mm.toy import LAYOUTS, ToySpec


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Folder of each toy data set."""
    roots = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    for name, write in LAYOUTS.items():
        write(roots[name], ToySpec(num_train=4, num_val=2, size=(64, 80)))
    return roots


@pytest.mark.slow
def test_every_config_of_ours_is_fine(toy):
    paths = [path for path in CONFIGS.glob('*.py') if not re.search('slak_[sb]_(160k|3x|300e)', path.name)]
    assert len(paths) > 9  # the others differ from one of them in the backbone alone
    for path in paths:
        errors = lines(set_data(shrink(Config.fromfile(path)), toy))
        assert errors == [], path


def shrink_box(path):
    text = path.read_text()
    before, _, rest = text.partition('<xmax>')
    path.write_text(f'{before}<xmax>1{rest[rest.index("<"):]}')


def classes(cfg, names):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=names)


COCO = ('person', 'bicycle', 'car', 'airplane', 'bus', 'boat', 'bottle', 'chair', 'couch', 'tv')
FIRST = 'training/ADE_train_00000001'
# name: (task, what is done to the config and the data, words of the line)
BROKEN = {
    'a model that does not exist': ('seg', lambda cfg, root: cfg.model.update(type='Unet'), ['model', 'Unet']),
    'a hook with an option that it has not': (
        'seg', lambda cfg, root: cfg.update(custom_hooks=[dict(type='slak_mm.SparsityHook', sparsty=.4)]),
        ['custom_hooks', 'sparsty']),
    'a missing label map': ('seg', lambda cfg, root: (root / f'annotations/{FIRST}.png').unlink(), [FIRST, 'it is the label map of']),
    'colours for labels': (
        'seg', lambda cfg, root: repaint(root / f'annotations/{FIRST}.png', lambda labels: np.stack([labels] * 3, -1)),
        [FIRST, 'has 3 channels']),
    'a head of too few classes': (
        'seg', lambda cfg, root: cfg.model.decode_head.update(num_classes=3), ['it must be from 0 to 2']),
    'half an image': (
        'seg', lambda cfg, root: (root / f'images/{FIRST}.jpg').write_bytes((root / f'images/{FIRST}.jpg').read_bytes()[:900]),
        [FIRST, 'cannot be read as an image']),
    'a batch of one': ('seg', lambda cfg, root: cfg.train_dataloader.update(batch_size=1), ['needs two', 'batch_size=2']),
    'reversed classes': ('coco', lambda cfg, root: classes(cfg, COCO[::-1]), ['another order']),
    'a misspelt class': ('coco', lambda cfg, root: classes(cfg, ('persom', *COCO[1:])), ["'persom': 'person' is meant?"]),
    'heads of another number': (
        'coco', lambda cfg, root: cfg.model.roi_head.mask_head.update(num_classes=80), ['roi_head.mask_head.0 tells 80 apart']),
    'an object without a mask': (
        'coco', lambda cfg, root: edit(root / TRAIN_JSON, lambda content: content['annotations'][0].update(segmentation=[])),
        ['has no segmentation']),
    'a box without area': (
        'voc', lambda cfg, root: shrink_box(root / 'VOC2007/Annotations/000002.xml'), ['000002.xml', 'has no area']),
    'a label that is none': (
        'cls', lambda cfg, root: (root / 'meta/train.txt').write_text('ILSVRC2012_val_00000001.JPEG 1000\n'), ['train']),
    'a test of other images': (
        'coco', lambda cfg, root: edit(root / 'annotations/instances_val2017.json', lambda content: content.update(images=[])),
        ['val', 'instances_val2017.json']),
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_one(name, tmp_path):
    task, break_, words = BROKEN[name]
    cfg = make(task, tmp_path)
    break_(cfg, tmp_path)
    errors = lines(cfg)
    assert errors and all(word in errors[0] for word in words), errors


def test_the_tool(tmp_path, capsys):
    cfg = make('seg', tmp_path / 'data')
    cfg.dump(tmp_path / 'config.py')
    run_tool('check', tmp_path / 'config.py')
    printed = capsys.readouterr().out
    assert printed.count('fine: ') > 8 and 'error: ' not in printed and '0 errors' in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'data']  # nothing is written
    next((tmp_path / 'data/images/training').iterdir()).write_bytes(b'')
    with pytest.raises(SystemExit) as ended:
        run_tool('check', tmp_path / 'config.py')
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and '1 errors' in printed and 'error: train: ' in printed and 'fine: val: ' in printed


def test_an_image_beyond_the_limit_of_pillow(tmp_path, monkeypatch):
    cfg = make('coco', tmp_path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert lines(cfg) == []
