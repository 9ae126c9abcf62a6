"""Small learnable scenes, written in the on-disk layouts of ADE20K, VOC2007, COCO 2017 and ImageNet-1K."""

from .layouts import LAYOUTS, ToySpec, cfg_options, write_ade20k, write_coco, write_imagenet, write_voc07
from .scenes import TOY_CLASSES, Obj, Scene, ToyClass, generate_scene

__all__ = [
    'LAYOUTS', 'TOY_CLASSES', 'Obj', 'Scene', 'ToyClass', 'ToySpec', 'cfg_options', 'generate_scene', 'write_ade20k',
    'write_coco', 'write_imagenet', 'write_voc07'
]
