"""Any config of the three libraries, shrunk until a CPU trains it in seconds."""
from pathlib import Path
from typing import Iterator, Mapping, Union

from mmengine import Config

ARCH = dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))  # that of tests/data/slak_micro.pth
MICRO = dict(arch=ARCH, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)  # its backbone for dense tasks
SIDE = 64
# type of a transform: arguments for images of 64x80
TRANSFORMS = dict(
    RandomResizedCrop=dict(scale=SIDE),
    ResizeEdge=dict(scale=SIDE),
    CenterCrop=dict(crop_size=SIDE),
    Resize=dict(scale=(80, SIDE)),
    RandomResize=dict(scale=(160, SIDE)),
    RandomChoiceResize=dict(scales=[(80, SIDE)]),
    RandomCrop=dict(crop_size=(SIDE, SIDE)))
# of a detector, wherever they stand
COUNTS = dict(nms_pre=50, max_per_img=16, num=16)


def dicts(node) -> Iterator[dict]:
    """Every dict in a config."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from dicts(child)


def shrink_model(cfg: Config) -> Config:
    """Changes and returns ``cfg``: a SLaK of the size above, and heads and neck that fit it."""
    model = cfg.model
    model.backbone.arch = ARCH
    widths = [int(channels * model.backbone.get('width_factor', 1.3)) for channels in ARCH['channels']]
    if 'auxiliary_head' in model:  # UPerNet's
        model.decode_head.update(in_channels=widths, channels=8)
        model.auxiliary_head.update(in_channels=widths[2], channels=8)
    elif 'head' in model:
        model.head.in_channels = widths[3]
    else:
        for node in dicts(model):
            node.update(dict.fromkeys({'fc_out_channels'} & node.keys(), 8))
        reader = next(model[part] for part in ('neck', 'decode_head', 'panoptic_head') if part in model)
        reader.in_channels = widths[-len(reader.in_channels):]
    return cfg


def shrink(cfg: Config) -> Config:
    """Changes and returns ``cfg``: a micro model, images of 64 pixels, batches of 2, one epoch or two iterations."""
    return shrink_work(shrink_model(cfg))


def shrink_work(cfg: Config) -> Config:
    """The same, but for the model."""
    for node in dicts(cfg._cfg_dict):
        node.update(TRANSFORMS.get(str(node.get('type', '')), {}))
        node.update({key: value for key, value in COUNTS.items() if key in node})
        if 'decay_rate' in node:
            node.pop('num_layers', None)  # the backbone's own
    if 'decode_head' in cfg.model:
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
        cfg.model.test_cfg = dict(mode='whole')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(dict(max_iters=2, val_interval=2) if 'max_iters' in cfg.train_cfg else dict(max_epochs=1))
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    return cfg


def set_data(cfg: Config, roots: Mapping[str, Union[str, Path]]) -> Config:
    """Changes and returns ``cfg``: its data sets are in the folder of their layout, one of those of ``slak_mm.toy.LAYOUTS``."""
    layout = {'mmseg': 'ade20k', 'mmpretrain': 'imagenet'}.get(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            dataset = loader.dataset
            while 'dataset' in dataset:
                dataset = dataset.dataset
            layout = layout or ('voc07' if 'VOC' in dataset.type else 'coco')
            dataset.data_root = str(roots[layout])
        evaluator = cfg.get(f'{split}_evaluator', {})
        if 'ann_file' in evaluator:
            evaluator.ann_file = f'{roots["coco"]}/annotations/instances_val2017.json'
    return cfg
