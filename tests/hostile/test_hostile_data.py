"""Data sets that cannot be used: a line names the file before any weight is loaded."""
import json
import shutil
from functools import partial

import numpy as np
import pytest
from hostile_helpers import read
from PIL import Image

from slak_mm.toy import ToySpec, write_ade20k, write_coco, write_imagenet, write_voc07


def remove(name, root):
    if (root / name).is_dir():
        shutil.rmtree(root / name)
    else:
        (root / name).unlink()


def empty(name, root):
    remove(name, root)
    (root / name).mkdir()


def write(name, content, root):
    (root / name).write_bytes(content)


def halve(name, root):
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:len(content) // 2])


def replace(name, old, new, root):
    (root / name).write_text((root / name).read_text().replace(old, new))


def repaint(name, change, root):
    """Saves an image anew, of what ``change`` makes of its array."""
    Image.fromarray(change(np.array(Image.open(root / name)))).save(root / name)


def edit(name, change, root):
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))


def fill(value, labels):
    labels[:8] = value
    return labels


IMAGE, LABELS = 'images/validation/ADE_val_00000001.jpg', 'annotations/validation/ADE_val_00000001.png'
PHOTO = 'val/ILSVRC2012_val_00000002.JPEG'
JSON, PICTURE = 'annotations/instances_val2017.json', 'val2017/000000000003.jpg'
LIST, XML = 'VOC2007/ImageSets/Main/test.txt', 'VOC2007/Annotations/000003.xml'
HTML = b'<!DOCTYPE html><title>404 Not Found</title>'
# task: name of the case: (what is done to the data set, words of the line)
CASES = dict(
    segmentation={
        'no data': (partial(remove, '.'), 'images/validation'),
        'no images folder': (partial(remove, 'images/validation'), 'images/validation'),
        'no images': (partial(empty, 'images/validation'), 'images/validation', 'no images are found'),
        'no label folder': (partial(remove, 'annotations'), LABELS, 'is not there: it is the label map of'),
        'no label map of an image': (partial(remove, LABELS), LABELS, 'is not there: it is the label map of'),
        'an empty image': (partial(write, IMAGE, b''), IMAGE, 'cannot be read as an image'),
        'a page for an image': (partial(write, IMAGE, HTML), IMAGE, 'cannot be read as an image'),
        'half an image': (partial(halve, IMAGE), IMAGE, 'cannot be read as an image'),
        'an empty label map': (partial(write, LABELS, b''), LABELS, 'cannot be read as an image'),
        'half a label map': (partial(halve, LABELS), LABELS, 'cannot be read as an image'),
        'a palette for labels': (partial(repaint, LABELS, lambda labels: np.stack([labels] * 3, -1)), LABELS, 'has 3 channels'),
        'labels with transparency': (partial(repaint, LABELS, lambda labels: np.stack([labels] * 4, -1)), LABELS, 'has 4 channels'),
        'labels of another size': (partial(repaint, LABELS, lambda labels: labels[:, :40]), LABELS, 'is 40x64, but', 'is 80x64'),
        'labels out of range': (partial(repaint, LABELS, partial(fill, 200)), LABELS, 'label 199, after reduce_zero_label=True'),
        'labels of 16 bits': (partial(repaint, LABELS, lambda labels: fill(40_000, labels.astype(np.uint16))), LABELS, 'label 40000'),
    },
    classification={
        'no data': (partial(remove, '.'), 'val'),
        'no images folder': (partial(remove, 'val'), 'val/ILSVRC2012_val_00000001.JPEG is not there'),
        'a list of nothing': (partial(write, 'meta/val.txt', b''), 'no images are found'),
        'a list without labels': (partial(write, 'meta/val.txt', b'ILSVRC2012_val_00000001.JPEG\n'), 'ValueError'),
        'a list with names': (partial(write, 'meta/val.txt', b'ILSVRC2012_val_00000001.JPEG dog\n'), "'dog'"),
        'an image that is not there': (partial(remove, PHOTO), PHOTO),
        'half an image': (partial(halve, PHOTO), PHOTO, 'cannot be read as an image'),
        'a page for an image': (partial(write, PHOTO, HTML), PHOTO, 'cannot be read as an image'),
        'a label out of range': (partial(write, 'meta/val.txt', b'ILSVRC2012_val_00000002.JPEG 1000\n'), PHOTO, 'has the label 1000'),
        'a negative label': (partial(write, 'meta/val.txt', b'ILSVRC2012_val_00000002.JPEG -1\n'), PHOTO, 'has the label -1'),
    },
    detection={
        'no data': (partial(remove, '.'), JSON),
        'no annotations': (partial(remove, JSON), JSON),
        'half the annotations': (partial(halve, JSON), JSON, 'cannot be used as annotations'),
        'annotations that are a list': (partial(write, JSON, b'[]'), JSON, 'cannot be used as annotations'),
        'no image in the list': (partial(edit, JSON, lambda content: content.update(images=[])), JSON, 'no image is listed'),
        'an unknown class': (partial(edit, JSON, lambda content: content['annotations'][0].update(category_id=91)), 'category_id 91'),
        'an image that is not there': (partial(remove, PICTURE), PICTURE),
        'half an image': (partial(halve, PICTURE), PICTURE, 'cannot be read as an image'),
    },
    voc={
        'no list': (partial(remove, LIST), LIST),
        'a list of nothing': (partial(write, LIST, b''), LIST, 'no image is listed'),
        'no annotations of an image': (partial(remove, XML), XML),
        'half the annotations': (partial(halve, XML), XML, 'cannot be used as annotations'),
        'an unknown class': (partial(replace, XML, '<name>', '<name>toy '), XML, "unknown class 'toy "),
    },
)
TASKS = dict(
    segmentation=(write_ade20k, 'upernet_slak_micro_toy_ade20k'),
    classification=(write_imagenet, 'slak_t_300e_in1k'),
    detection=(write_coco, 'cascade_mask_rcnn_slak_t_1x_coco'),
    voc=(write_voc07, 'faster_rcnn_slak_t_36e_voc07'))


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    """Of each task the data, and the config as a function of their place."""
    made = {}
    for task, (write_data, config) in TASKS.items():
        root = tmp_path_factory.mktemp(task)
        write_data(root, ToySpec(num_train=2, num_val=2, size=(64, 80)))
        made[task] = root, read(config, root)
    return made


@pytest.mark.parametrize('task, case', [(task, case) for task, cases in CASES.items() for case in cases])
def test_data(refused, good, tasks, tmp_path, task, case):
    break_, *words = CASES[task][case]
    root, cfg = tasks[task]
    data = tmp_path / 'data'
    shutil.copytree(root, data)
    break_(data)
    (tmp_path / 'config.py').write_text(cfg.pretty_text.replace(str(root), str(data)))
    # a checkpoint of another task: were it loaded, the line would tell
    refused('test', tmp_path / 'config.py', good.path, '--work-dir', tmp_path, words=words)


def test_labels_that_the_head_does_not_know(refused, good, tmp_path):
    refused('test', good.config, good.path, '--work-dir', tmp_path, '--cfg-options', 'model.decode_head.num_classes=2',
            'model.auxiliary_head.num_classes=2', words=['it must be from 0 to 1'])


def test_what_is_to_be_ignored_is_in_order(tool, good, tmp_path):
    cfg = read('upernet_slak_micro_toy_ade20k', tmp_path / 'data')
    cfg.dump(tmp_path / 'config.py')
    shutil.copytree(good.data, tmp_path / 'data')
    for value in (0, 255):
        repaint(LABELS, partial(fill, value), tmp_path / 'data')
    tool('test', tmp_path / 'config.py', good.path, '--work-dir', tmp_path)


@pytest.mark.parametrize('what', ['folder', 'text', 'absent'])
def test_predictions_on_no_image(refused, good, tmp_path, what):
    if what == 'text':
        write('text', HTML, tmp_path)
    refused('predict', tmp_path if what == 'folder' else tmp_path / what, good.config, good.path, words=[str(tmp_path), 'image'])
