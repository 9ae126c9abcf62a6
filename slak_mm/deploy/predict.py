"""Predictions by OpenMMLab's own inferencers, with what they do not check checked first."""
import copy
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import CheckpointLoader
from mmengine.utils import scandir

from ..checkpoints import check_fits, named, source
from ..checks import DataError, read_image, refusing
from ..registry import class_of, enter_scope, library_of

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')


def find_images(path: Path) -> List[str]:
    """The image, or those in the folder, each of which can be read.

    Raises:
        DataError: There is none, or one cannot be read.
    """
    if path.is_file():
        read_image(str(path))
        return [str(path)]
    images = sorted(scandir(path, SUFFIXES, case_sensitive=False)) if path.is_dir() else []
    if not images:
        raise DataError(f'{path} is neither an image nor a folder with images (jpg, png, bmp).')
    for image in images:
        read_image(str(path / image))
    return [str(path / image) for image in images]


def build_inferencer(cfg: Config, checkpoint: str, device: Optional[str] = None) -> Any:
    """The inferencer of the config's library, with the weights of a checkpoint that fits.

    It has the names and colours of classes that the file says, else those of the config's test data set. The libraries' own fallback
    is the 80 names of COCO, or the 19 of Cityscapes, whatever the model was trained for.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it.
        checkpoint (str): Path or URL, in any format.
        device (str, optional): Defaults to None: a GPU if there is one.

    Raises:
        CheckpointError: The file is unreadable or unsafe, or leaves weights of the model at random.
        InputError: The config cannot be built.
    """
    enter_scope(cfg)
    weights = source(checkpoint)
    with named(checkpoint), refusing(cfg.filename):
        inferencer = _build(cfg, weights, device)
        loaded = CheckpointLoader.load_checkpoint(weights, 'cpu')
        check_fits(loaded['state_dict'], inferencer.model)
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


def _with_plain_names(cfg: Config, library: Optional[str]) -> Config:
    """A copy whose transforms for tests are called as the inferencers look for them, by their names, however the config does."""
    cfg = copy.deepcopy(cfg)
    for step in cfg.test_dataloader.dataset.get('pipeline') or ():
        kind = class_of(step, TRANSFORMS, cfg.get('default_scope'))
        if kind is not None and class_of(dict(type=kind.__name__), TRANSFORMS, library) is kind:
            step['type'] = kind.__name__
    return cfg


def _build(cfg: Config, weights: str, device: Optional[str]) -> Any:
    library = library_of(cfg)
    cfg = _with_plain_names(cfg, library)
    if library == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer
        return ImageClassificationInferencer(cfg, pretrained=weights, device=device)
    if library == 'mmseg':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(cfg, weights=weights, device=device)
    from mmdet.apis import DetInferencer
    return DetInferencer(cfg, weights=weights, device=device)


def predict(inferencer: Any, cfg: Config, images: List[str], out: str, score_thr: float = .3) -> Optional[List[Dict[str, Any]]]:
    """Writes a picture of each prediction.

    Args:
        inferencer: Of :func:`build_inferencer`, with the same config.
        cfg (Config): Says the library.
        images (list[str]): Paths.
        out (str): Folder for the pictures.
        score_thr (float): Least score of a detector's box that is drawn. Defaults to 0.3.

    Returns:
        list[dict] | None: Of a classifier, ``pred_label``, ``pred_score`` and, if it is known, ``pred_class`` of each image.
    """
    if library_of(cfg) == 'mmpretrain':
        return inferencer(images, show_dir=out)
    inferencer(images, out_dir=out, **({} if library_of(cfg) == 'mmseg' else dict(pred_score_thr=score_thr)))
    return None
