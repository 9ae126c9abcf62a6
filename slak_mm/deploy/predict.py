"""Predictions by OpenMMLab's own inferencers, with what they do not check checked first."""
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.utils import scandir

from ..checkpoints import check_fits, named, source
from ..checks import DataError, read_image, refusing

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

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it.
        checkpoint (str): Path or URL, in any format.
        device (str, optional): Defaults to None: a GPU if there is one.

    Raises:
        CheckpointError: The file is unreadable or unsafe, or leaves weights of the model at random.
        InputError: The config cannot be built.
    """
    init_default_scope(cfg.default_scope)
    weights = source(checkpoint)
    with named(checkpoint), refusing(cfg.filename):
        inferencer = _build(cfg, weights, device)
        check_fits(CheckpointLoader.load_checkpoint(weights, 'cpu')['state_dict'], inferencer.model)
    return inferencer


def _build(cfg: Config, weights: str, device: Optional[str]) -> Any:
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer
        return ImageClassificationInferencer(cfg, pretrained=weights, device=device)
    if cfg.default_scope == 'mmseg':
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
    if cfg.default_scope == 'mmpretrain':
        return inferencer(images, show_dir=out)
    inferencer(images, out_dir=out, **({} if cfg.default_scope == 'mmseg' else dict(pred_score_thr=score_thr)))
    return None
