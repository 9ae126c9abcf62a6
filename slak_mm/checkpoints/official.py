"""The twelve files that SLaK's authors publish, and what a file is that somebody has."""
import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from mmengine.config import Config
from torch import Tensor

from ..compat.versions import CONFIG_FOLDERS
from ..registry import library_of
from .convert import inspect, share_of_zeros
from .file import load_file, named
from .names import convert_state_dict
from .weights import select_state_dict

CHUNK = 2**20


class Official(NamedTuple):
    """A file of the authors.

    Args:
        name (str): What it is.
        save_as (str): What our configs call it.
        config (str): The config that it belongs to, from ``configs/`` on.
        result (str): The authors' figure.
    """
    name: str
    save_as: str
    config: str
    result: str


FILES = (
    Official('SLaK-T, 300 epochs', 'slak_t_300e_in1k.pth', 'slak_t_300e_in1k.py', '82.5% top-1'),
    Official('SLaK-S, 300 epochs', 'slak_s_300e_in1k.pth', 'slak_s_300e_in1k.py', '83.8% top-1'),
    Official('SLaK-B, 300 epochs', 'slak_b_300e_in1k.pth', 'slak_b_300e_in1k.py', '84.0% top-1'),
    Official('SLaK-T 31x31, 120 epochs', 'slak_t_k31_120e_in1k.pth', 'ablations/slak_t_k31_120e_in1k.py', '81.5% top-1'),
    Official('SLaK-T 51x51, 120 epochs', 'slak_t_120e_in1k.pth', 'slak_t_120e_in1k.py', '81.6% top-1'),
    Official('SLaK-T 61x61, 120 epochs', 'slak_t_k61_120e_in1k.pth', 'ablations/slak_t_k61_120e_in1k.py', '81.5% top-1'),
    Official('ConvNeXt-T distilled from SLaK-T (L2S)', 'convnext_t_l2s_slak_t_300e_in1k.pth',
             'distillation/convnext_t_l2s_slak_t_300e_in1k.py', '83.1% top-1'),
    Official('ConvNeXt-S distilled from SLaK-S (L2S)', 'convnext_s_l2s_slak_s_300e_in1k.pth',
             'distillation/convnext_s_l2s_slak_s_300e_in1k.py', '84.3% top-1'),
    Official('UPerNet, SLaK-T', 'upernet_slak_t_160k_ade20k.pth', 'upernet_slak_t_160k_ade20k.py', '47.6 mIoU'),
    Official('UPerNet, SLaK-S', 'upernet_slak_s_160k_ade20k.pth', 'upernet_slak_s_160k_ade20k.py', '49.4 mIoU'),
    Official('UPerNet, SLaK-B', 'upernet_slak_b_160k_ade20k.pth', 'upernet_slak_b_160k_ade20k.py', '50.0 mIoU'),
    Official('Cascade Mask R-CNN 1x, SLaK-T', 'cascade_mask_rcnn_slak_t_1x_coco.pth', 'cascade_mask_rcnn_slak_t_1x_coco.py',
             '48.4 box AP'),
)
# the layer that gives the classes, and whose it is
OUTPUTS = {'head.fc.weight': 'classifier', 'decode_head.conv_seg.weight': 'segmentor', 'roi_head.bbox_head.fc_cls.weight': 'detector',
           'roi_head.bbox_head.0.fc_cls.weight': 'detector'}
HEADS = 'head', 'decode_head', 'panoptic_head', 'bbox_head'
# what a SLaK is if a config does not say
DEFAULTS = dict(arch='tiny', width_factor=1.3, kernel_sizes=(51, 49, 47, 13), small_kernel_size=5, large_kernel='decomposed')


class Description(NamedTuple):
    """What a file is.

    Args:
        size (int): In bytes.
        sha256 (str): Of the whole file.
        entries (list[str]): What is in it, at its top level.
        kind (str): Of the model: 'classifier', 'segmentor', 'detector' or 'backbone'.
        classes (int, optional): Their number; None of a backbone.
        backbone (dict): Arguments of ``slak_mm.SLaK`` that fit.
        zeros (float): Share of the backbone's weights that are zero.
        zeros_by_kind (dict[str, float]): The same of its depthwise convolutions, linear layers and downsampling.
        configs (list[str]): Of ours that train or test this model.
        starts (list[str]): Of ours whose backbone can start from it.
    """
    size: int
    sha256: str
    entries: List[str]
    kind: str
    classes: Optional[int]
    backbone: Dict[str, Any]
    zeros: float
    zeros_by_kind: Dict[str, float]
    configs: List[str]
    starts: List[str]


def describe_file(path: str, key: Optional[str] = None) -> Description:
    """Says what a file of a SLaK is.

    Args:
        path (str): Of a local file.
        key (str, optional): Entry that holds the weights. Defaults to None: 'state_dict', else 'model'.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: It is unreadable or unsafe, or its weights are not those of a SLaK.
    """
    with named(path):
        checkpoint = load_file(path)
        weights = convert_state_dict(select_state_dict(checkpoint, key))
        backbone, options = inspect(weights)
    kind, classes = _kind(weights)
    groups = {'depthwise convolutions': '.large_kernel.', 'linear layers': '.pwconv', 'stem and downsampling': 'downsample_layers.'}
    by_kind = {name: share_of_zeros({key: value for key, value in backbone.items() if part in f'.{key}'})
               for name, part in groups.items()}
    fitting = [(name, own, count) for name, (own, count, model) in _configs().items() if _same(model, options)]
    same = [name for name, own, count in fitting if (own, count) == (kind, classes)]
    starts = [name for name, own, _ in fitting if own not in (kind, 'classifier')]
    return Description(os.path.getsize(path), _sha256(path), [str(name) for name in checkpoint][:12], kind, classes, options,
                       share_of_zeros(backbone), by_kind, same, starts)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(CHUNK), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _kind(weights: Dict[str, Tensor]) -> Any:
    """Of the model whose weights these are, and the number of its classes."""
    for name, kind in OUTPUTS.items():
        if name in weights:
            return kind, len(weights[name]) - (kind == 'detector')  # which has the background as well
    return 'backbone', None


@lru_cache(maxsize=None)
def _configs() -> Dict[str, Any]:
    """Of each config of ours, but toys: kind, number of classes, and config of the backbone."""
    found = {}
    folders = [*CONFIG_FOLDERS, CONFIG_FOLDERS[0] / 'distillation']
    for path in sorted(path for folder in folders for path in folder.glob('*.py') if '_toy_' not in path.stem):
        cfg = Config.fromfile(path)
        model = cfg.model.get('student', cfg.model)
        if not str(model.backbone.type).endswith('SLaK'):
            continue
        kind = dict(mmpretrain='classifier', mmseg='segmentor', mmdet='detector').get(library_of(cfg) or '', 'backbone')
        head = next((model[name] for name in HEADS if name in model), None) or model.roi_head.bbox_head
        found[path.relative_to(CONFIG_FOLDERS[0]).as_posix()] = (
            kind, (head[0] if isinstance(head, (list, tuple)) else head).get('num_classes'), dict(model.backbone))
    return found


def _same(config: Dict[str, Any], options: Dict[str, Any]) -> bool:
    """Whether a backbone by a config and one read off a file have weights of the same shapes."""
    mine, theirs = ({name: given.get(name, default) for name, default in DEFAULTS.items()} for given in (config, options))
    if mine['large_kernel'] == theirs['large_kernel'] == 'naive':
        mine.pop('small_kernel_size')
        theirs.pop('small_kernel_size')
    return 'mlp_channels' not in options and {k: _tuple(v) for k, v in mine.items()} == {k: _tuple(v) for k, v in theirs.items()}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def official_of(description: Description) -> List[Official]:
    """The authors' files that a file can be, by the model in it."""
    return [file for file in FILES if file.config in description.configs]


def lines(path: Path, description: Description) -> List[str]:
    """The description, to print."""
    options = ', '.join(f'{name}={value!r}' for name, value in description.backbone.items())
    classes = '' if description.classes is None else f' of {description.classes} classes'
    known = official_of(description)
    found = [
        f'{path}: {description.size:,} bytes, SHA-256 {description.sha256}',
        f'holds {", ".join(description.entries)}',
        f'a {description.kind}{classes}: slak_mm.SLaK({options})',
        f'{description.zeros:.1%} of its weights are zero: '
        + ', '.join(f'{share:.1%} of {name}' for name, share in description.zeros_by_kind.items()),
        f'configs of this model: {", ".join(description.configs) or "none"}',
        f'configs whose backbone can start from it: {", ".join(description.starts) or "none"}',
    ]
    if known:
        found.append('of the authors\' files it can be: ' + '; '.join(
            f'{file.name} (save it as checkpoints/{file.save_as}; theirs: {file.result})' for file in known))
    return found
