"""Writers of toy scenes in the on-disk layouts of ADE20K, VOC2007, COCO 2017 and ImageNet-1K.

Every writer takes the root folder, a :class:`ToySpec` and a ``progress`` callable, which wraps the range of scene
numbers of each split (such as ``mmengine.track_iter_progress``). The same spec gives the same scenes in every layout
and the same bytes in every run. Files of the same name are overwritten, others are left alone.
"""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Tuple, Union
from xml.dom import minidom

import cv2
import numpy as np
from PIL import Image

from .scenes import TOY_CLASSES, Obj, Scene, check_scene_arguments, generate_scene

_VAL_START = 10**6  # first scene index of the validation split; training scenes stay below it

# Supercategory -> ids and names, as in the instances files of COCO 2017.
_COCO_CATEGORIES = dict(
    person={1: 'person'},
    vehicle={2: 'bicycle', 3: 'car', 4: 'motorcycle', 5: 'airplane', 6: 'bus', 7: 'train', 8: 'truck', 9: 'boat'},
    outdoor={10: 'traffic light', 11: 'fire hydrant', 13: 'stop sign', 14: 'parking meter', 15: 'bench'},
    animal={16: 'bird', 17: 'cat', 18: 'dog', 19: 'horse', 20: 'sheep', 21: 'cow', 22: 'elephant', 23: 'bear',
            24: 'zebra', 25: 'giraffe'},
    accessory={27: 'backpack', 28: 'umbrella', 31: 'handbag', 32: 'tie', 33: 'suitcase'},
    sports={34: 'frisbee', 35: 'skis', 36: 'snowboard', 37: 'sports ball', 38: 'kite', 39: 'baseball bat',
            40: 'baseball glove', 41: 'skateboard', 42: 'surfboard', 43: 'tennis racket'},
    kitchen={44: 'bottle', 46: 'wine glass', 47: 'cup', 48: 'fork', 49: 'knife', 50: 'spoon', 51: 'bowl'},
    food={52: 'banana', 53: 'apple', 54: 'sandwich', 55: 'orange', 56: 'broccoli', 57: 'carrot', 58: 'hot dog',
          59: 'pizza', 60: 'donut', 61: 'cake'},
    furniture={62: 'chair', 63: 'couch', 64: 'potted plant', 65: 'bed', 67: 'dining table', 70: 'toilet'},
    electronic={72: 'tv', 73: 'laptop', 74: 'mouse', 75: 'remote', 76: 'keyboard', 77: 'cell phone'},
    appliance={78: 'microwave', 79: 'oven', 80: 'toaster', 81: 'sink', 82: 'refrigerator'},
    indoor={84: 'book', 85: 'clock', 86: 'vase', 87: 'scissors', 88: 'teddy bear', 89: 'hair drier', 90: 'toothbrush'},
)

PathLike = Union[str, Path]
Progress = Callable[[range], Iterable[int]]


@dataclass(frozen=True)
class ToySpec:
    """What scenes a toy data set holds.

    Attributes:
        num_train (int): Number of training images. Defaults to 64.
        num_val (int): Number of validation images. Defaults to 16.
        seed (int): Seed of the scenes, 0 or more. Defaults to 0.
        size (Tuple[int, int]): Height and width of the scenes in pixels, each at least 32. Defaults to (128, 160).

    Raises:
        ValueError: If a split has no image or training more than 1,000,000, or for a wrong ``seed`` or ``size``.
    """
    num_train: int = 64
    num_val: int = 16
    seed: int = 0
    size: Tuple[int, int] = (128, 160)

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val) < 1 or self.num_train > _VAL_START:
            raise ValueError(f'each split needs at least 1 image and training at most {_VAL_START}, '
                             f'but got {self.num_train} and {self.num_val}')
        check_scene_arguments(self.seed, 0, self.size)

    def scenes(self, split: str, progress: Progress = iter) -> Iterator[Tuple[int, Scene]]:
        """Yields the scenes of split 'train' or 'val' with their numbers, which start at 1 in each split."""
        num, start = dict(train=(self.num_train, 0), val=(self.num_val, _VAL_START))[split]
        for i in progress(range(num)):
            yield i + 1, generate_scene(self.seed, start + i, self.size)


def write_ade20k(root: PathLike, spec: ToySpec = ToySpec(), progress: Progress = iter) -> None:
    """Writes the layout of ADEChallengeData2016: ``images`` and ``annotations`` in ``training`` and ``validation``.

    An annotation is a single-channel PNG with values 1 to 150. Its one-pixel rim is 0 (unlabelled), since the real
    annotations have such pixels too.

    Args:
        root (str | Path): Folder to use as ``data_root`` of mmseg's ``ADE20KDataset``.
        spec (ToySpec): The scenes. Defaults to ``ToySpec()``.
        progress (Callable): Wraps the range of scenes of each split. Defaults to no progress report.
    """
    root = Path(root)
    labels = np.array([cls.ade20k_label for cls in TOY_CLASSES], np.uint8)
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for number, scene in spec.scenes(split, progress):
            name = f'ADE_{split}_{number:08d}'
            _save_jpeg(root / 'images' / folder / f'{name}.jpg', scene.image)
            annotation = np.pad(labels[scene.semantic[1:-1, 1:-1]], 1)
            path = root / 'annotations' / folder / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(annotation).save(path)


def write_voc07(root: PathLike, spec: ToySpec = ToySpec(), progress: Progress = iter) -> None:
    """Writes the layout of VOCdevkit with the year 2007.

    The training scenes make up ``trainval``, of which every second one goes to ``val``; the validation scenes make up
    ``test``.

    Args:
        root (str | Path): Folder to use as ``data_root`` of mmdet's ``VOCDataset``, which then holds ``VOC2007``.
        spec (ToySpec): The scenes. Defaults to ``ToySpec()``.
        progress (Callable): Wraps the range of scenes of each split. Defaults to no progress report.
    """
    root = Path(root) / 'VOC2007'
    ids: Dict[str, List[str]] = {}
    for split, offset in (('train', 0), ('val', spec.num_train)):
        ids[split] = []
        for number, scene in spec.scenes(split, progress):
            name = f'{offset + number:06d}'
            ids[split].append(name)
            _save_jpeg(root / 'JPEGImages' / f'{name}.jpg', scene.image)
            _save_text(root / 'Annotations' / f'{name}.xml', _voc_xml(f'{name}.jpg', scene))
    trainval = ids['train']
    for subset, names in dict(trainval=trainval, train=trainval[::2], val=trainval[1::2], test=ids['val']).items():
        _save_lines(root / 'ImageSets' / 'Main' / f'{subset}.txt', names)


def write_coco(root: PathLike, spec: ToySpec = ToySpec(), progress: Progress = iter) -> None:
    """Writes the layout of COCO 2017: ``train2017``, ``val2017`` and their instances files with all 80 categories.

    The polygons outline the visible part of an object, and decode to just its mask.

    Args:
        root (str | Path): Folder to use as ``data_root`` of mmdet's ``CocoDataset``.
        spec (ToySpec): The scenes. Defaults to ``ToySpec()``.
        progress (Callable): Wraps the range of scenes of each split. Defaults to no progress report.
    """
    root = Path(root)
    categories = [dict(supercategory=supercategory, id=id_, name=name)
                  for supercategory, names in _COCO_CATEGORIES.items() for id_, name in names.items()]
    num_annotations = 0
    for split, offset in (('train', 0), ('val', spec.num_train)):
        images, annotations = [], []
        for number, scene in spec.scenes(split, progress):
            image_id = offset + number
            file_name = f'{image_id:012d}.jpg'
            _save_jpeg(root / f'{split}2017' / file_name, scene.image)
            height, width = scene.semantic.shape
            images.append(dict(license=1, file_name=file_name, height=height, width=width,
                               date_captured='2017-09-01 00:00:00', id=image_id))
            for obj in scene.objects:
                num_annotations += 1
                annotations.append(_coco_annotation(obj, image_id, num_annotations))
        instances = dict(
            info=dict(description='Toy scenes in the layout of COCO 2017', url='', version='1.0', year=2017,
                      contributor='slak_mm', date_created='2017/09/01'),
            licenses=[dict(url='', id=1, name='Public domain')],
            images=images,
            annotations=annotations,
            categories=categories)
        _save_text(root / 'annotations' / f'instances_{split}2017.json', json.dumps(instances))


def write_imagenet(root: PathLike, spec: ToySpec = ToySpec(), progress: Progress = iter) -> None:
    """Writes the layout of ImageNet-1K: ``train/<wnid>/<wnid>_<number>.JPEG``, a flat ``val``, ``meta``.

    ``meta/train.txt`` and ``meta/val.txt`` hold the labels: without them, mmpretrain would count 1000 folders. An image
    is the surroundings of the object of its scene that shows most, cut to the scene.

    Args:
        root (str | Path): Folder to use as ``data_root`` of mmpretrain's ``ImageNet``.
        spec (ToySpec): The scenes. Defaults to ``ToySpec()``.
        progress (Callable): Wraps the range of scenes of each split. Defaults to no progress report.
    """
    root = Path(root)
    for split in ('train', 'val'):
        lines = []
        for number, scene in spec.scenes(split, progress):
            obj = max(scene.objects, key=lambda o: o.mask.sum())
            wnid = obj.category.wnid
            name = f'{wnid}/{wnid}_{number}.JPEG' if split == 'train' else f'ILSVRC2012_val_{number:08d}.JPEG'
            _save_jpeg(root / split / name, _surroundings(scene.image, obj))
            lines.append(f'{name} {obj.category.imagenet_label}')
        _save_lines(root / 'meta' / f'{split}.txt', lines)


LAYOUTS = dict(ade20k=write_ade20k, voc07=write_voc07, coco=write_coco, imagenet=write_imagenet)


def _save_jpeg(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, 'JPEG', quality=95, subsampling=0)


def _save_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _save_lines(path: Path, lines: List[str]) -> None:
    _save_text(path, ''.join(f'{line}\n' for line in lines))


def _append_elements(parent: ET.Element, **fields) -> None:
    for tag, value in fields.items():
        child = ET.SubElement(parent, tag)
        if isinstance(value, dict):
            _append_elements(child, **value)
        else:
            child.text = str(value)


def _voc_xml(file_name: str, scene: Scene) -> str:
    height, width = scene.semantic.shape
    root = ET.Element('annotation')
    _append_elements(root, folder='VOC2007', filename=file_name, size=dict(width=width, height=height, depth=3),
                     segmented=0)
    for obj in scene.objects:
        x1, y1, x2, y2 = obj.bbox
        # VOC counts pixels from 1 and includes the last one.
        box = dict(xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
        # Truncated: the box, here with a pixel of tolerance, is not that of the whole object.
        whole = np.concatenate([obj.polygon.min(axis=0), obj.polygon.max(axis=0)])
        truncated = int(np.abs(whole - obj.bbox).max() > 1)
        _append_elements(root, object=dict(name=obj.category.voc, pose='Unspecified', truncated=truncated, difficult=0,
                                           bndbox=box))
    parsed = minidom.parseString(ET.tostring(root)).documentElement
    assert parsed is not None
    return parsed.toprettyxml('\t')


def _mask_to_polygons(mask: np.ndarray) -> List[List[float]]:
    """Outlines a mask without holes as COCO polygons, which decode to just this mask."""
    # At twice the size the contours run half-way between the centres and the edges of the pixels, so that the decoder,
    # which tests pixel centres, is never in doubt and even a lone pixel has an area.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.ravel() + 0.5) / 2).tolist() for contour in contours]


def _coco_annotation(obj: Obj, image_id: int, annotation_id: int) -> dict:
    x1, y1, x2, y2 = obj.bbox
    return dict(segmentation=_mask_to_polygons(obj.mask), area=float(obj.mask.sum()), iscrowd=0, image_id=image_id,
                bbox=[float(v) for v in (x1, y1, x2 - x1, y2 - y1)], category_id=obj.category.coco_id, id=annotation_id)


def _surroundings(image: np.ndarray, obj: Obj, margin: float = 0.2) -> np.ndarray:
    """The part of an image in the box of an object, grown by a share of its size on each side."""
    x1, y1, x2, y2 = obj.bbox
    dx, dy = round(margin * (x2 - x1)), round(margin * (y2 - y1))
    return image[max(y1 - dy, 0):y2 + dy, max(x1 - dx, 0):x2 + dx]


def cfg_options(layout: str, root: Path) -> str:
    """The ``--cfg-options`` that point a config at a toy data set.

    Args:
        layout (str): One of :data:`LAYOUTS`.
        root (Path): Folder of the data set.
    """
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')]
    if layout == 'coco':
        ann_file = root / 'annotations' / 'instances_val2017.json'
        options += [f'{key}_evaluator.ann_file={ann_file}' for key in ('val', 'test')]
    return ' '.join(options)
