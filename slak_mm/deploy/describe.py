"""The description of an exported file, from a config and the model that it is of."""
from typing import Any, Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from ..checks import refusing
from ..registry import class_of, enter_scope, library_of
from .description import TASKS
from .predict import innermost, metainfo_of

IGNORED = 'Load', 'Pack', 'Collect', 'ImageToTensor', 'ToTensor'  # steps that leave the image as it is
Size = Optional[Tuple[int, int]]


def pipeline_steps(cfg: Config) -> Optional[List[Dict[str, Any]]]:
    """``pipeline`` of :mod:`slak_mm.deploy.description`: what tests do to an image; None if a step is of another kind."""
    enter_scope(cfg)
    found = []
    for step in _pipeline(cfg):
        name = _name(step, cfg)
        if name.startswith(IGNORED):
            continue
        with refusing(cfg.filename or 'config'):
            described = _describe(name, TRANSFORMS.build(step))
        if described is None:
            return None
        found.append(described)
    return found


def _pipeline(cfg: Config) -> List[dict]:
    return innermost((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline') or []


def _name(step: dict, cfg: Config) -> str:
    return getattr(class_of(step, TRANSFORMS, cfg.get('default_scope')), '__name__', str(step.get('type')))


def _describe(name: str, step: Any) -> Optional[Dict[str, Any]]:
    how = {key: getattr(step, key, None) for key in ('interpolation', 'backend')}
    if name == 'Resize' and getattr(step, 'scale', None) is not None:
        return dict(op='resize', scale=[*step.scale], keep_ratio=bool(step.keep_ratio), **how)
    if name == 'Resize' and getattr(step, 'scale_factor', None) is not None:
        return dict(op='resize_factor', factor=[*step.scale_factor], **how)
    if name == 'ResizeEdge':
        return dict(op='resize_edge', edge=step.edge, size=step.scale, **how)
    if name == 'CenterCrop' and not getattr(step, 'auto_pad', False):
        width, height = step.crop_size if isinstance(step.crop_size, (tuple, list)) else (step.crop_size, step.crop_size)
        return dict(op='center_crop', size=[height, width])
    return None


def loading(cfg: Config) -> Dict[str, Any]:
    """How the test pipeline reads images: ``load`` of :mod:`slak_mm.deploy.description`."""
    steps = [step for step in _pipeline(cfg) if _name(step, cfg).startswith('LoadImage')]
    step = steps[0] if steps else {}
    return dict(color_type=step.get('color_type', 'color'), backend=step.get('imdecode_backend', 'cv2'))


def fixed_size(steps: Optional[List[Dict[str, Any]]]) -> Size:
    """Height and width of every image after these steps; None if they differ."""
    last = steps[-1] if steps else {}
    if last.get('op') == 'center_crop':
        return tuple(last['size'])
    if last.get('op') == 'resize' and not last['keep_ratio']:
        width, height = last['scale']
        return height, width
    return None


def classes_of(cfg: Config, meta: Dict[str, Any]) -> Dict[str, Any]:
    """``classes`` and ``palette``, as a checkpoint says (``meta``), or else the config's test data set."""
    fallback = metainfo_of(cfg)
    classes = meta.get('classes') or fallback.get('classes')
    palettes: Any = (meta.get('palette'), fallback.get('palette'))
    palette = next((palette for palette in palettes if palette and classes and len(palette) == len(classes)), None)
    return dict(classes=classes and [*map(str, classes)], palette=palette and [[*map(int, colour)] for colour in palette])


def model_of(cfg: Config) -> Dict[str, Any]:
    """``task`` and ``model``."""
    from mmengine.registry import MODELS
    kind = class_of(cfg.get('model'), MODELS, cfg.get('default_scope'))
    return dict(task=TASKS.get(str(library_of(cfg)), 'features'), model=getattr(kind, '__name__', None))
