"""An exported model as a function of numpy arrays: what the config did to an image before the model, and to its output afterwards.

It needs numpy, onnxruntime or openvino, and OpenCV or Pillow to resize; neither torch nor OpenMMLab.
"""
from pathlib import Path
from typing import Any, Dict, Tuple, Union

import numpy as np

from ..errors import InputError
from .runtime import fill, open_exported

Size = Tuple[int, ...]  # height and width


class Session:
    """A model in a file of ``tools/export.py``.

    Args:
        path (str | Path): The file, .onnx or .xml.
        bf16 (bool): Compute in bfloat16; OpenVINO alone can. Defaults to False.
        threads (int): Defaults to 0: one for each core.

    Attributes:
        description (dict): What the file says of itself, see :mod:`slak_mm.deploy.description`.

    Raises:
        UserError: Its runtime is not installed.
        InputError: It is no such file, one of a backbone alone, or one whose pre-processing needs the config: use tools/predict.py.
    """

    def __init__(self, path: Union[str, Path], bf16: bool = False, threads: int = 0):
        self.runtime = open_exported(path, bf16, threads)
        self.description = self.runtime.description
        if self.description['task'] not in FINISHERS:
            raise InputError(f'{path} is of a backbone alone, which predicts nothing. Export without --backbone.')
        if self.description['pipeline'] is None:
            raise InputError(f'the test pipeline of the model in {path} has steps that need its config: use tools/predict.py.')

    def __call__(self, image: np.ndarray) -> Dict[str, Any]:
        """The prediction for an image.

        Args:
            image (ndarray): (H, W, 3), uint8, RGB, the upper side up.

        Returns:
            dict: For the image as it was given,

            - of a classifier, ``scores`` (classes,) and ``label`` (int), the class of the largest;
            - of a segmentor, ``labels`` (H, W) and ``scores`` (classes, H, W), before softmax;
            - of a detector, ``boxes`` (n, 4), x1 y1 x2 y2 in pixels, ``scores`` (n,), the best first, ``labels`` (n,), and, of a model
              with masks, ``masks`` (n, H, W), bool.

            The names of the classes are ``description['classes']``.

        Raises:
            InputError: The image is no such array, or the file takes images of another size.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError('an image is an array of uint8 of the shape (H, W, 3), RGB.')
        pixels = np.ascontiguousarray(image[..., ::-1])
        for step in self.description['pipeline']:
            pixels = STEPS[step['op']](pixels, step)
        seen = pixels.shape[:2]
        images = np.ascontiguousarray(fill(self._normalize(pixels), self.description).transpose(2, 0, 1)[None])
        return FINISHERS[self.description['task']](self.runtime.run(images), image.shape[:2], seen, self.description)

    def _normalize(self, pixels: np.ndarray) -> np.ndarray:
        settings = self.description['preprocess']
        if settings['inside']:
            return pixels
        pixels = pixels[..., ::-1 if settings['swap'] else 1].astype(np.float32)
        if settings['mean'] is None:
            return pixels
        return (pixels - np.array(settings['mean'], np.float32)) / np.array(settings['std'], np.float32)


def resize(pixels: np.ndarray, width: int, height: int, step: Dict[str, Any]) -> np.ndarray:
    """As mmcv.imresize."""
    if step['backend'] == 'pillow':
        from PIL import Image
        return np.array(Image.fromarray(pixels).resize((width, height), getattr(Image, step['interpolation'].upper())))
    import cv2
    codes = dict(bilinear='LINEAR', bicubic='CUBIC', lanczos='LANCZOS4')
    code = codes.get(step['interpolation'], step['interpolation'].upper())
    return cv2.resize(pixels, (width, height), interpolation=getattr(cv2, f'INTER_{code}'))


def resize_to(pixels: np.ndarray, step: Dict[str, Any]) -> np.ndarray:
    (height, width), (wide, high) = pixels.shape[:2], step['scale']
    if step['keep_ratio']:
        factor = min(max(wide, high) / max(height, width), min(wide, high) / min(height, width))
        wide, high = int(width * float(factor) + .5), int(height * float(factor) + .5)
    return resize(pixels, wide, high, step)


def resize_by(pixels: np.ndarray, step: Dict[str, Any]) -> np.ndarray:
    height, width = pixels.shape[:2]
    return resize(pixels, int(width * float(step['factor'][0]) + .5), int(height * float(step['factor'][1]) + .5), step)


def resize_edge(pixels: np.ndarray, step: Dict[str, Any]) -> np.ndarray:
    (height, width), edge, size = pixels.shape[:2], step['edge'], step['size']
    if edge == 'width' or edge == 'short' and width < height or edge == 'long' and width > height:
        return resize(pixels, size, int(size * height / width), step)
    return resize(pixels, int(size * width / height), size, step)


def center_crop(pixels: np.ndarray, step: Dict[str, Any]) -> np.ndarray:
    top, left = (max(0, int(round((there - wanted) / 2.))) for there, wanted in zip(pixels.shape, step['size']))
    return pixels[top:top + step['size'][0], left:left + step['size'][1]]


STEPS = dict(resize=resize_to, resize_factor=resize_by, resize_edge=resize_edge, center_crop=center_crop)


def interpolate(maps: np.ndarray, size: Size, align_corners: bool = False) -> np.ndarray:
    """Maps (channels, H, W) in another size, bilinearly, as torch.nn.functional.interpolate."""
    for axis, new in zip((1, 2), size):
        old = maps.shape[axis]
        if old != new:
            place = np.arange(new) * ((old - 1) / max(new - 1, 1)) if align_corners else (np.arange(new) + .5) * (old / new) - .5
            place = place.clip(0, old - 1)
            low = np.floor(place).astype(int)
            share = (place - low).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(3)])
            maps = maps.take(low, axis) * (1 - share) + maps.take((low + 1).clip(max=old - 1), axis) * share
    return maps


def paste(mask: np.ndarray, box: np.ndarray, size: Size) -> np.ndarray:
    """Probabilities (h, w) on a grid over a box, for each pixel of an image (H, W); 0 outside. As mmdet pastes masks."""
    for axis, (low, high, pixels) in enumerate(((box[1], box[3], size[0]), (box[0], box[2], size[1]))):
        cells = mask.shape[axis]
        place = (np.arange(pixels, dtype=np.float32) + np.float32(.5) - low) / (high - low) * cells - .5
        first = np.floor(place.clip(-2, cells + 1)).astype(int)
        share = np.expand_dims((place.clip(-2, cells + 1) - first).astype(np.float32), 1 - axis)
        padded = np.pad(mask, [(3, 3) if each == axis else (0, 0) for each in range(2)])
        mask = padded.take(first + 3, axis) * (1 - share) + padded.take(first + 4, axis) * share
    return mask


def finish_scores(outputs: Dict[str, np.ndarray], size: Size, seen: Size, description: dict) -> Dict[str, Any]:
    scores = next(iter(outputs.values()))[0]
    return dict(scores=scores, label=int(scores.argmax()))


def finish_maps(outputs: Dict[str, np.ndarray], size: Size, seen: Size, description: dict) -> Dict[str, Any]:
    settings = description['segmentation']
    if size == seen:
        return dict(labels=outputs['labels'][0], scores=outputs['scores'][0])
    scores = interpolate(outputs['scores'][0], size, settings['align_corners'])
    if settings['threshold'] is None:
        return dict(labels=scores.argmax(0), scores=scores)
    return dict(labels=(1 / (1 + np.exp(-scores[0])) > settings['threshold']).astype(np.int64), scores=scores)


def finish_boxes(outputs: Dict[str, np.ndarray], size: Size, seen: Size, description: dict) -> Dict[str, Any]:
    high, factor = np.array([seen[1], seen[0]] * 2, np.float32), np.array([seen[1] / size[1], seen[0] / size[0]] * 2, np.float32)
    boxes = outputs['boxes'].clip(0, high) / factor
    found: Dict[str, Any] = dict(boxes=boxes, scores=outputs['scores'], labels=outputs['labels'])
    if 'masks' in outputs:
        threshold = description['detection']['mask_threshold']
        masks = [paste(mask, box, size) >= threshold for mask, box in zip(outputs['masks'], boxes)]
        found['masks'] = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return found


FINISHERS = dict(classification=finish_scores, segmentation=finish_maps, detection=finish_boxes)
