"""Predictions by OpenMMLab's own inferencers, with what they do not check checked first."""
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.utils import scandir

from ..checkpoints import check_fits, named, source
from ..checks import DataError, cut_short, refusing

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.webp')
Loader = Callable[[str], np.ndarray]


def image_loader(cfg: Config) -> Loader:
    """Reads images as the config's test pipeline does: with its decoder, its colours, its view of EXIF's orientation.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it, and before :func:`build_inferencer` changes its pipeline.

    Returns:
        Callable: Takes a path; returns (H, W, 3), or (H, W) or (H, W, C) if the pipeline reads other images. It raises a DataError
        that names a file that is no image.
    """
    init_default_scope(cfg.default_scope)
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    kinds = [(str(getattr(step['type'], '__name__', step['type'])).rpartition('.')[2], step) for step in dataset.get('pipeline', ())]
    step = next((step for kind, step in kinds if kind.startswith('LoadImage')), dict(type='mmcv.LoadImageFromFile'))
    with refusing(cfg.filename or 'config'):
        transform = TRANSFORMS.build(step)

    def load(path: str) -> np.ndarray:
        try:
            image = transform(dict(img_path=path))['img']
        except Exception as error:  # each decoder has its own
            if isinstance(error, OSError) and error.filename is not None:
                raise
            image = None
        if image is None or cut_short(path, transform):
            raise DataError(f'{path} cannot be read as an image: it is cut short or of another format. Copy it again or remove it.')
        return image

    return load


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
    images = sorted(scandir(path, SUFFIXES, case_sensitive=False)) if path.is_dir() else []
    if not images:
        raise DataError(f'{path} is neither an image nor a folder with images ({", ".join(suffix[1:] for suffix in SUFFIXES)}).')
    for image in images:
        load(str(path / image))
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


def predict(inferencer: Any, cfg: Config, images: List[str], out: str, load: Loader, score_thr: float = .3) -> List[Dict[str, Any]]:
    """Writes a picture of each prediction, and of a segmentor the map of labels as well.

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
    if cfg.default_scope == 'mmpretrain':
        return [_classify(inferencer, image, out, load) for image in images]
    visualizer = inferencer.visualizer
    if cfg.default_scope == 'mmseg':
        visualizer.set_dataset_meta(**inferencer.model.dataset_meta)
        visualizer.alpha = .8
    for image in images:
        sample = inferencer.forward(pseudo_collate([inferencer.pipeline(image)]))[0]
        path = Path(out, 'vis', Path(image).name)
        options = {} if cfg.default_scope == 'mmseg' else dict(pred_score_thr=score_thr)
        suffix = path.suffix if path.suffix.lower() in SUFFIXES[:4] else '.png'
        visualizer.add_datasample(path.name, as_picture(load(image)), sample, draw_gt=False, out_file=str(path.with_suffix(suffix)),
                                  **options)
        if 'pred_sem_seg' in sample:
            mmcv.imwrite(sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8), str(Path(out, 'pred', f'{path.stem}_pred.png')))
    return []


def _classify(inferencer: Any, image: str, out: str, load: Loader) -> Dict[str, Any]:
    from mmpretrain.visualization import UniversalVisualizer
    pixels = load(image)
    sample = inferencer.forward(next(iter(inferencer.preprocess([pixels]))))[0]
    inferencer.visualizer = inferencer.visualizer or UniversalVisualizer()
    inferencer.visualizer.visualize_cls(as_picture(pixels), sample, classes=inferencer.classes, draw_gt=False,
                                        name=Path(image).name, out_file=str(Path(out, f'{Path(image).stem}.png')))
    return inferencer.postprocess([sample], None)[0]


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
