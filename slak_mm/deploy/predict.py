"""Predictions by OpenMMLab's own inferencers, with what they do not check checked first."""
import copy
import logging
import math
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.utils import scandir

from ..checkpoints import check_fits, named, source
from ..checks import DataError, cut_short, refusing, unreadable
from ..checks.left_out import IMAGE_SUFFIXES
from ..errors import TRACEBACK, UserError, in_one_line
from ..models.build import quiet
from ..models.precision import autocast_forward
from ..registry import class_of, enter_scope, library_of
from .description import is_exported

# the first four are written, too
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.webp', '.jpe', '.jfif')
Loader = Callable[[str], np.ndarray]
MOST_PIXELS = 25_000_000  # of a picture: to draw takes a hundred bytes for each


def image_loader(cfg: Config) -> Loader:
    """Reads images as the config's test pipeline does: with its decoder, its colours, its view of EXIF's orientation.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it, and before :func:`build_inferencer` changes its pipeline.

    Returns:
        Callable: Takes a path; returns (H, W, 3), or (H, W) or (H, W, C) if the pipeline reads other images. It raises a DataError
        that names a file that is no image.
    """
    enter_scope(cfg)
    dataset = innermost(cfg.test_dataloader.dataset)
    steps = [step for step in dataset.get('pipeline') or () if _name_of(step, cfg).startswith('LoadImage')]
    with refusing(cfg.filename or 'config'):
        transform = TRANSFORMS.build(steps[0] if steps else dict(type=LoadImageFromFile))

    def load(path: str) -> np.ndarray:
        try:
            image = transform(dict(img_path=path))['img']
        except Exception as error:  # each decoder has its own
            if isinstance(error, OSError) and error.filename is not None:
                raise
            image = None
        if image is None or cut_short(path, transform):
            raise unreadable(path, transform)
        return image

    return load


def innermost(dataset: Dict[str, Any]) -> Dict[str, Any]:
    """The data set in others that repeat it, or put it together with more: the first that has a pipeline."""
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset


def _name_of(step: dict, cfg: Config) -> str:
    return getattr(class_of(step, TRANSFORMS, cfg.get('default_scope')), '__name__', '')


def find_images(path: Path, load: Loader) -> List[str]:
    """The image, or those in the folder, each of which can be read.

    Args:
        path (Path): Of either.
        load (Callable): Of :func:`image_loader`.

    Raises:
        DataError: There is none, or one cannot be read.
    """
    if path.is_file():
        load(str(path))
        return [str(path)]
    names = sorted(scandir(path, IMAGE_SUFFIXES, case_sensitive=False)) if path.is_dir() else []
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    unknown = [name for name in names if not name.lower().endswith(SUFFIXES)]
    deeper = sum(1 for _ in scandir(path, SUFFIXES, recursive=True, case_sensitive=False)) - len(images) if path.is_dir() else 0
    inside = f'{path} has folders with images inside ({deeper}): give these folders one by one.'
    if not images:
        raise DataError(f'{path} is neither an image nor a folder with images ({", ".join(suffix[1:] for suffix in SUFFIXES)}).'
                        + (f' {inside}' if deeper else '') + (f' It has {unknown[0]}: save it as PNG.' if unknown else ''))
    if deeper:
        print_log(f'{inside} They are left out.', 'current', logging.WARNING)
    if unknown:
        print_log(f'{path}: {len(unknown)} images of other formats are left out, the first is {unknown[0]}. Save them as PNG, or give '
                  'them one by one.', 'current', logging.WARNING)
    for image in images:
        load(str(path / image))
    return [str(path / image) for image in images]


def picture_names(images: List[str]) -> List[str]:
    """A name for what is written of each image: its own, without the suffix; with it, where another image has the same name.

    Returns:
        list[str]: As many, all different, also where case does not count: ``['a', 'b_jpg', 'b_png']``.
    """
    stems = Counter(Path(image).stem.lower() for image in images)
    names: Dict[str, str] = {}
    for path in map(Path, images):
        name = path.stem if stems[path.stem.lower()] == 1 else path.name.replace('.', '_')
        while name.lower() in names:
            name += '_'
        names[name.lower()] = name
    return [*names.values()]


def build_inferencer(cfg: Config, checkpoint: str, device: Optional[str] = None, amp: bool = False) -> Any:
    """The inferencer of the config's library, with the weights of a checkpoint that fits.

    It has the names and colours of classes that the file says, else those of the config's test data set. The libraries' own fallback
    is the 80 names of COCO, or the 19 of Cityscapes, whatever the model was trained for.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it.
        checkpoint (str): Path or URL, in any format; or an exported file, ``.onnx`` or ``.xml``, which runs on the CPU.
        device (str, optional): Defaults to None: a GPU if there is one.
        amp (bool): Whether to compute under autocast, see :func:`~slak_mm.models.precision.autocast_forward`. Defaults to False.
            Of an ``.xml``, in bfloat16.

    Raises:
        CheckpointError: The file is unreadable or unsafe, or leaves weights of the model at random.
        InputError: The config cannot be built.
    """
    enter_scope(cfg)
    if is_exported(checkpoint):
        from .exported import exported_cfg
        with refusing(cfg.filename), quiet():  # which say that there are no weights
            inferencer = _build(cfg, None, 'cpu', exported_cfg(cfg, checkpoint, amp))
        _name_classes(inferencer, cfg, inferencer.model.description)
        return inferencer
    weights = source(checkpoint)
    with named(checkpoint), refusing(cfg.filename):
        inferencer = _build(cfg, weights, device)
        loaded = CheckpointLoader.load_checkpoint(weights, 'cpu')
        check_fits(loaded['state_dict'], inferencer.model)
        if amp:
            autocast_forward(inferencer.model)
        _name_classes(inferencer, cfg, loaded['meta'].get('dataset_meta', {}))
    return inferencer


def _name_classes(inferencer: Any, cfg: Config, described: Dict[str, Any]) -> None:
    """Has an inferencer call and paint its classes as the file says, else as the config does."""
    fallback = metainfo_of(cfg)
    classes = described.get('classes') or fallback.get('classes')
    if not classes:
        print_log('Neither the checkpoint nor the config says what the classes are called: names and colours in the pictures are not '
                  'those of the model. Set metainfo=dict(classes=(...)) of test_dataloader.dataset.', 'current', logging.WARNING)
    elif library_of(cfg) == 'mmpretrain':
        inferencer.classes = classes
    elif library_of(cfg) == 'mmseg':
        palettes = (meta.get('palette') for meta in (described, fallback))
        palette = next((palette for palette in palettes if palette and len(palette) == len(classes)), None)
        inferencer.model.dataset_meta = dict(classes=classes, palette=palette or _random_palette(len(classes)))
    else:
        inferencer.model.dataset_meta['classes'] = classes


def _random_palette(count: int) -> List[List[int]]:
    """That of mmseg's data sets that have none of their own."""
    return np.random.RandomState(42).randint(0, 255, size=(count, 3)).tolist()


def metainfo_of(cfg: Config) -> Dict[str, Any]:
    """What a config's test data set says of its classes, whose files need not be there.

    Returns:
        dict: ``classes``, ``palette`` and more, as far as they are known. The palette is of these classes.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    kind: Any = class_of(dataset, DATASETS, cfg.get('default_scope'))
    if not hasattr(kind, '_load_metainfo'):
        return {}
    found = dict(kind._load_metainfo(copy.deepcopy(dataset.get('metainfo'))))
    colours = dict(zip(kind.METAINFO.get('classes') or (), kind.METAINFO.get('palette') or ()))
    classes = found.get('classes') or ()
    if len(found.get('palette') or ()) != len(classes):  # some of the data set's classes were chosen
        found['palette'] = [colours[name] for name in classes] if colours.keys() >= set(classes) else None
    return found


def _with_plain_names(cfg: Config, scope: Optional[str]) -> Config:
    """A copy whose transforms for tests are called as the inferencers look for them, by their names in this scope, however the config
    does."""
    cfg = copy.deepcopy(cfg)
    for step in cfg.test_dataloader.dataset.get('pipeline') or ():
        kind = class_of(step, TRANSFORMS, scope)
        if kind is not None and class_of(dict(type=kind.__name__), TRANSFORMS, scope) is kind:
            step['type'] = kind.__name__
    return cfg


def _build(cfg: Config, weights: Optional[str], device: Optional[str], model: Optional[dict] = None) -> Any:
    library = library_of(cfg)
    scope = cfg.get('default_scope') or library  # mmrotate's, of a detector that is built on mmdet's
    cfg = _with_plain_names(cfg, scope)
    cfg.model = model or cfg.model
    if library == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer
        return ImageClassificationInferencer(cfg, pretrained=weights or False, device=device)
    if library == 'mmseg':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(cfg, weights=weights, device=device)
    from mmdet.apis import DetInferencer
    return DetInferencer(cfg, weights=weights, device=device, scope=scope)


def predict(inferencer: Any, cfg: Config, images: List[str], out: str, load: Loader, score_thr: float = .3) -> List[Dict[str, Any]]:
    """Writes a picture of each prediction, and of a segmentor the map of labels as well.

    A picture of more than ``MOST_PIXELS`` is drawn smaller.

    Args:
        inferencer: Of :func:`build_inferencer`, with the same config.
        cfg (Config): Says the library.
        images (list[str]): Paths.
        out (str): Folder for the pictures.
        load (Callable): Of :func:`image_loader`: the pictures show the image as the model was given it.
        score_thr (float): Least score of a detector's box that is drawn. Defaults to 0.3.

    Returns:
        list[dict]: Of a classifier, ``pred_label``, ``pred_score`` and, if it is known, ``pred_class`` of each; of others nothing.
    """
    names = picture_names(images)
    if library_of(cfg) == 'mmpretrain':
        found = []
        for image, name in zip(images, names):
            with _naming(image):
                found.append(_classify(inferencer, image, str(Path(out, f'{name}.png')), load))
        return found
    visualizer = inferencer.visualizer
    if library_of(cfg) == 'mmseg':
        visualizer.set_dataset_meta(**inferencer.model.dataset_meta)
        visualizer.alpha = .8
    for image, name in zip(images, names):
        with _naming(image):
            _paint(inferencer, image, name, out, load, {} if library_of(cfg) == 'mmseg' else dict(pred_score_thr=score_thr))
    return []


@contextmanager
def _naming(image: str) -> Iterator[None]:
    """What is raised inside, is about this image: all of them were read, and the model was built."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of the pipeline, the model or the visualizer
        text = str(error) if isinstance(error, UserError) else f'{in_one_line(error)}. {TRACEBACK}=1 shows where it was raised.'
        raise DataError(f'{image} cannot be predicted: {text}') from error


def _paint(inferencer: Any, image: str, name: str, out: str, load: Loader, options: Dict[str, Any]) -> None:
    sample = inferencer.forward(pseudo_collate([inferencer.pipeline(image)]))[0]
    suffix = Path(image).suffix if Path(image).suffix.lower() in SUFFIXES[:4] else '.png'
    pixels = load(image)
    step = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / MOST_PIXELS))
    inferencer.visualizer.add_datasample(name, as_picture(pixels[::step, ::step]), reduced(sample, step), draw_gt=False,
                                         out_file=str(Path(out, 'vis', f'{name}{suffix}')), **options)
    if 'pred_sem_seg' in sample:
        mmcv.imwrite(sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8), str(Path(out, 'pred', f'{name}_pred.png')))


def _classify(inferencer: Any, image: str, out_file: str, load: Loader) -> Dict[str, Any]:
    from mmpretrain.visualization import UniversalVisualizer
    pixels = load(image)
    sample = inferencer.forward(next(iter(inferencer.preprocess([pixels]))))[0]
    inferencer.visualizer = inferencer.visualizer or UniversalVisualizer()
    inferencer.visualizer.visualize_cls(as_picture(pixels), sample, classes=inferencer.classes, draw_gt=False,
                                        name=Path(image).name, out_file=out_file)
    return inferencer.postprocess([sample], None)[0]


def reduced(sample: BaseDataElement, step: int) -> BaseDataElement:
    """A prediction for each ``step``-th pixel of its image, in both directions; for 1, the prediction itself."""
    if step == 1:
        return sample
    small = type(sample)(metainfo=sample.metainfo)
    for name, value in sample.items():
        if isinstance(value, PixelData):
            value = PixelData(**{key: each[..., ::step, ::step] for key, each in value.items()})
        elif isinstance(value, InstanceData):
            fields = dict(value.items())
            if hasattr(fields.get('bboxes'), 'rescale_'):  # of a kind that may have an angle
                fields['bboxes'] = fields['bboxes'].clone()
                fields['bboxes'].rescale_((1 / step, 1 / step))
            elif 'bboxes' in fields:
                fields['bboxes'] = fields['bboxes'] / step
            fields.update({key: fields[key][..., ::step, ::step] for key in ('masks', ) if key in fields})
            value = InstanceData(**fields)
        setattr(small, name, value)
    return small


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image as the libraries load it, to be looked at.

    Args:
        image (ndarray): (H, W) or (H, W, C), colours in OpenCV's order; of more than three channels the first three are taken.

    Returns:
        ndarray: (H, W, 3), RGB, of bytes; other numbers are stretched to their range.
    """
    image = image.reshape(*image.shape[:2], -1)
    image = image[..., 2::-1] if image.shape[-1] > 2 else image[..., :1].repeat(3, -1)
    if image.dtype != np.uint8:
        low, high = np.nanmin(image), np.nanmax(image)
        image = ((np.nan_to_num(image).astype(np.float64) - low) * (255 / max(float(high - low), 1e-12))).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)
