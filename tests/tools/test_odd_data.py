"""Data sets that are odd and valid: what the stock tools train on, ours train on, with nothing but checks in between."""

import cv2
import numpy as np
import pytest
import torch
from data_helpers import TRAIN_JSON, edit, make, repaint
from hostile_helpers import run_tool
from mmcv.transforms import BaseTransform
from mmengine import Config
from mmengine.runner import Runner
from mmseg.registry import TRANSFORMS
from PIL import Image

from slak_mm.deploy.evaluation import shown_names
from slak_mm.models.build import build_model

TURNED = Image.Exif()
TURNED[0x0112] = 6
pytestmark = pytest.mark.slow


@TRANSFORMS.register_module()
class LoadNpyLabels(BaseTransform):
    """Label maps as arrays, as a user would write it."""

    def transform(self, results):
        results['gt_seg_map'] = np.load(results['seg_map_path'])
        results['seg_fields'].append('gt_seg_map')
        return results


def load(cfg, *steps):
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.pipeline = [*steps, *(step for step in dataset.pipeline if not step['type'].startswith('Load'))]


LABELS = dict(type='LoadAnnotations', reduce_zero_label=True)


def images(root, kind='images'):
    return sorted(path for path in (root / kind).rglob('*') if path.is_file())


def save_as(root, suffix, change):
    for path in images(root):
        Image.fromarray(change(np.array(Image.open(path)))).save(path.with_suffix(suffix))
        if suffix != path.suffix:
            path.unlink()


def suffixes(cfg, **kwargs):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(type='BaseSegDataset', reduce_zero_label=True, **kwargs)


def sixteen_bits(cfg, root):
    save_as(root, '.png', lambda pixels: pixels[..., 0].astype(np.uint16) * 256)
    suffixes(cfg, img_suffix='.png', seg_map_suffix='.png')
    repaint_labels(root, lambda labels: np.minimum(labels, 13))


def repaint_labels(root, change):
    for path in images(root, 'annotations'):
        repaint(path, change)


def gray(cfg, root):
    save_as(root, '.jpg', lambda pixels: pixels[..., 0])


def with_transparency(cfg, root):
    save_as(root, '.png', lambda pixels: np.concatenate([pixels, pixels[..., :1]], -1))
    suffixes(cfg, img_suffix='.png', seg_map_suffix='.png')
    repaint_labels(root, lambda labels: np.minimum(labels, 13))


def exif_that_is_ignored(cfg, root):
    for path in images(root):
        repaint(path, lambda pixels: pixels, exif=TURNED)
    load(cfg, dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), LABELS)


def floating_tiff(cfg, root):
    for path in images(root):
        cv2.imwrite(str(path.with_suffix('.tif')), np.array(Image.open(path)).astype(np.float32) / 7)
    suffixes(cfg, img_suffix='.tif', seg_map_suffix='.png')
    repaint_labels(root, lambda labels: np.minimum(labels, 13))
    load(cfg, dict(type='LoadImageFromFile', color_type='unchanged'), LABELS)


def label_maps_as_arrays(cfg, root):
    for path in images(root, 'annotations'):
        np.save(path.with_suffix('.npy'), np.clip(np.array(Image.open(path)).astype(np.int64), 1, 13) - 1)
    suffixes(cfg, img_suffix='.jpg', seg_map_suffix='.npy')
    load(cfg, dict(type='LoadImageFromFile'), dict(type='LoadNpyLabels'))


def nothing(cfg, root):
    pass


def negatives_only(cfg, root):
    edit(root / TRAIN_JSON, lambda content: content.update(annotations=[]))
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)


def an_empty_class(cfg, root):
    def change(content):
        content['annotations'] = [each for each in content['annotations'] if each['category_id'] != first]

    first = 1
    edit(root / TRAIN_JSON, change)


# name: (task, name of the folder, what is done)
ODD = {
    '16 bits': ('seg', 'data', sixteen_bits),
    'gray': ('seg', 'data', gray),
    'transparency': ('seg', 'data', with_transparency),
    'EXIF that is ignored': ('seg', 'data', exif_that_is_ignored),
    'floating TIFF': ('seg', 'data', floating_tiff),
    'label maps as arrays': ('seg', 'data', label_maps_as_arrays),
    'spaces and letters': ('seg', "my dätä 图像 it's", nothing),
    'negatives only': ('coco', 'data', negatives_only),
    'a huge image': ('coco', 'data', nothing),
    'an empty class': ('coco', 'data', an_empty_class),
}


@pytest.fixture
def config(tmp_path, monkeypatch, request):
    task, folder, change = ODD[request.param]
    root = tmp_path / folder
    cfg = make(task, root)
    change(cfg, root)
    if request.param == 'a huge image':
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    if task == 'coco':
        cfg.train_dataloader.batch_size, cfg.train_dataloader.batch_sampler = 2, None
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=9)
    else:
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=9)
        cfg.default_hooks.checkpoint.interval = 1
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.dump(tmp_path / 'config.py')
    return request.param, tmp_path / 'config.py', root


@pytest.mark.parametrize('config', ODD, indirect=True)
def test_what_stock_tools_train_on(config, tmp_path):
    """What the stock tools do, which is to build the Runner and train, ends well; ours ends as well, with the same files."""
    name, path, root = config
    stock = Config.fromfile(path)
    stock.work_dir = str(tmp_path / 'stock')
    Runner.from_cfg(stock).train()
    run_tool('train', path, '--work-dir', tmp_path / 'work')
    assert len({next((tmp_path / work_dir).glob('*_1.pth')).name for work_dir in ('stock', 'work')}) == 1
    checkpoint = next((tmp_path / 'work').glob('*_1.pth'))
    if name in ('16 bits', 'transparency', 'EXIF that is ignored', 'floating TIFF'):
        shown = ['--show-dir', tmp_path / 'shown'] if name == 'EXIF that is ignored' else []
        run_tool('test', path, checkpoint, '--work-dir', tmp_path / 'test', *shown)
        for picture in (tmp_path / 'shown').rglob('*.png'):
            assert Image.open(picture).height == 64  # as it is stored
        image = next(image for image in images(root) if 'validation' in str(image))
        run_tool('predict', image, path, checkpoint, '--out', tmp_path / 'out', '--device', 'cpu')
        picture, = (tmp_path / 'out/vis').iterdir()
        assert Image.open(picture).size == (80, 64)


SAME_NAMES = {
    'seg': ('images', 'annotations'),
    'cls': ('val', ),
    'coco': ('val2017', ),
}


def same_names(task, cfg, root):
    """Has the two test images in two folders, called the same."""
    for kind in SAME_NAMES[task]:
        folder = root / kind
        for i, path in enumerate(sorted(path for path in folder.rglob('*.*') if task != 'seg' or 'validation' in str(path))):
            target = (folder if task != 'seg' else folder / 'validation') / f'part{i}/x{path.suffix}'
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    if task == 'coco':
        edit(root / 'annotations/instances_val2017.json', lambda content: [
            image.update(file_name=f'part{i}/x.jpg') for i, image in enumerate(content['images'])])
    if task == 'cls':
        kept = {key: cfg.test_dataloader.dataset[key] for key in ('data_root', 'pipeline')}
        (root / 'val.txt').write_text('part0/x.JPEG 0\npart1/x.JPEG 1\n')
        cfg.test_dataloader.dataset = dict(kept, type='CustomDataset', data_prefix='val', ann_file='val.txt')


@pytest.mark.parametrize('task', SAME_NAMES)
def test_pictures_of_images_of_one_name(tmp_path, task):
    root = tmp_path / 'data'
    cfg = make(task, root)
    same_names(task, cfg, root)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'weights.pth')
    folders = ['--work-dir', tmp_path / 'test', '--show-dir', tmp_path / 'shown']
    run_tool('test', tmp_path / 'config.py', tmp_path / 'weights.pth', *folders)
    names = sorted(path.name for path in (tmp_path / 'shown').rglob('*.*g'))
    assert len(names) == 2 and all(f'part{i}_x' in name for i, name in enumerate(names))


def test_names_of_pictures():
    paths = ['data/a/0.jpg', 'data/b/0.jpg', 'data/b/1.jpg']
    assert shown_names(paths) == dict(zip(paths, ('a_0.jpg', 'b_0.jpg', '1.jpg')))
    assert [*shown_names(['x/class_1/0.jpg', 'x/class_2/0.jpg']).values()] == ['class_1_0.jpg', 'class_2_0.jpg']
    assert shown_names(['x/0.jpg', 'x/b/0.jpg']) == {'x/0.jpg': '0.jpg', 'x/b/0.jpg': 'b_0.jpg'}
    assert shown_names([]) == {}
