"""Pictures whose class depends on pixels far apart: four discs at the corners of a square, two red and two blue.

Class ``sides``: discs of one colour share a side of the square; class ``diagonals``: they share a diagonal. All pictures have the same
colours in the same amounts, and no part of one that is smaller than the side tells its class. So a network has to relate pixels
that are at least a side apart; the side is how difficult it is.
"""
from typing import Any, List, Sequence

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

CLASSES = ('diagonals', 'sides')
COLORS = (205, 65, 55), (55, 90, 205)
RADIUS = 5
MARGIN = RADIUS + 3
ALONG = np.arange(-RADIUS, RADIUS + 1)
DISC = ALONG[:, None]**2 + ALONG**2 <= RADIUS**2


def draw_corners(side: int, label: int, rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """Draws one picture.

    Args:
        side (int): Of the square, in pixels; each disc is up to 2 pixels away from its corner.
        label (int): 0: discs of one colour share a diagonal; 1: a side.
        rng (np.random.Generator): Settles place, colours and noise.
        size (int): Height and width of the picture. Defaults to 128.

    Returns:
        np.ndarray: (size, size, 3), uint8, RGB.

    Raises:
        ValueError: The square does not fit, or its discs would touch.
    """
    room = size - side - 2 * MARGIN
    if side < 4 * RADIUS or room < 1:
        raise ValueError(f'side must be from {4 * RADIUS} to {size - 2 * MARGIN - 1} pixels in a picture of {size}, got {side}.')
    coarse = rng.normal(0, 12, (size // 16 + 1, size // 16 + 1, 3)).astype(np.float32)
    image = 125 + cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 10, (size, size, 3))
    # clockwise from the upper left
    colours = np.roll([0, 1, 0, 1] if label == 0 else [0, 0, 1, 1], rng.integers(4))
    top, left = rng.integers(room, size=2) + MARGIN
    for (down, right), colour in zip(((0, 0), (0, 1), (1, 1), (1, 0)), colours):
        y, x = np.array([top + down * side, left + right * side]) + rng.integers(-2, 3, 2)
        around = image[y - RADIUS:y + RADIUS + 1, x - RADIUS:x + RADIUS + 1]
        around[DISC] = np.array(COLORS[colour]) * rng.uniform(.8, 1.15) + rng.normal(0, 12, (int(DISC.sum()), 3))
    return image.clip(0, 255).astype(np.uint8)


@DATASETS.register_module()
class Corners(BaseDataset):
    """These pictures as a data set, drawn as they are asked for; every other one is of class ``sides``.

    Args:
        side, size (int): See :func:`draw_corners`. ``size`` defaults to 128.
        count (int): Number of pictures.
        seed (int): 0 or more; the same number of the same seed is the same picture.
        pipeline (list[dict]): Of transforms, from ``img`` (BGR) and ``gt_label`` on.
    """
    METAINFO = dict(classes=CLASSES)

    def __init__(self, side: int, count: int, seed: int, size: int = 128, pipeline: Sequence[dict] = ()):
        self.side, self.count, self.seed, self.size = side, count, seed, size
        super().__init__(pipeline=list(pipeline))

    def load_data_list(self) -> List[dict]:
        return [dict(number=number, gt_label=number % 2) for number in range(self.count)]

    def prepare_data(self, idx: int) -> Any:
        info = self.get_data_info(idx)
        image = draw_corners(self.side, info['gt_label'], np.random.default_rng((self.seed, info['number'])), self.size)
        return self.pipeline(dict(info, img=np.ascontiguousarray(image[..., ::-1])))
