"""Synthetic scenes: a few textured shapes, overlapping, in front of sky, wall and grass.

Pixel coordinates are continuous: the pixel in row ``r`` and column ``c`` covers ``[c, c + 1) x [r, r + 1)``.
"""

import colorsys
from dataclasses import dataclass
from typing import List, Literal, Optional, Tuple

import cv2
import numpy as np


@dataclass(frozen=True)
class ToyClass:
    """One class of the toy scenes and what it is called in each data set.

    Attributes:
        name (str): Toy name.
        kind (str): ``'stuff'`` (background region) or ``'thing'`` (countable object).
        ade20k (str): ADE20K class name.
        ade20k_label (int): Value in an ADE20K annotation PNG, 1 to 150.
        voc (str, optional): PASCAL VOC class name; ``None`` for stuff, as all the following.
        coco (str, optional): COCO category name.
        coco_id (int, optional): COCO category id, 1 to 90.
        imagenet (str, optional): ImageNet-1K class name.
        wnid (str, optional): ImageNet synset id.
        imagenet_label (int, optional): ImageNet-1K class index, 0 to 999.
    """
    name: str
    kind: Literal['stuff', 'thing']
    ade20k: str
    ade20k_label: int
    voc: Optional[str] = None
    coco: Optional[str] = None
    coco_id: Optional[int] = None
    imagenet: Optional[str] = None
    wnid: Optional[str] = None
    imagenet_label: Optional[int] = None


# ImageNet-1K has no plain person, car, chair, ...: the closest of its classes stands in.
TOY_CLASSES: Tuple[ToyClass, ...] = (
    ToyClass('wall', 'stuff', 'wall', 1),
    ToyClass('sky', 'stuff', 'sky', 3),
    ToyClass('grass', 'stuff', 'grass', 10),
    ToyClass('person', 'thing', 'person', 13, 'person', 'person', 1, 'groom, bridegroom', 'n10148035', 982),
    ToyClass('bicycle', 'thing', 'bicycle', 128, 'bicycle', 'bicycle', 2, 'mountain bike, all-terrain bike, off-roader',
             'n03792782', 671),
    ToyClass('car', 'thing', 'car', 21, 'car', 'car', 3, 'sports car, sport car', 'n04285008', 817),
    ToyClass('airplane', 'thing', 'airplane', 91, 'aeroplane', 'airplane', 5, 'airliner', 'n02690373', 404),
    ToyClass('bus', 'thing', 'bus', 81, 'bus', 'bus', 6, 'school bus', 'n04146614', 779),
    ToyClass('boat', 'thing', 'boat', 77, 'boat', 'boat', 9, 'speedboat', 'n04273569', 814),
    ToyClass('bottle', 'thing', 'bottle', 99, 'bottle', 'bottle', 44, 'water bottle', 'n04557648', 898),
    ToyClass('chair', 'thing', 'chair', 20, 'chair', 'chair', 62, 'folding chair', 'n03376595', 559),
    ToyClass('sofa', 'thing', 'sofa', 24, 'sofa', 'couch', 63, 'studio couch, day bed', 'n04344873', 831),
    ToyClass('tv', 'thing', 'television receiver', 90, 'tvmonitor', 'tv', 72, 'television, television system',
             'n04404412', 851),
)

MIN_SIZE = 32  # shortest image side, in pixels, at which the textures still look different
MIN_VISIBLE = 0.5  # least visible share of an object's area
NUM_OBJECTS = (2, 5)
SCALE_RANGE = (0.20, 0.32)  # circumradius of a shape over the shorter image side
MAX_TILT = np.deg2rad(25)
HUE_JITTER = 0.04
SUPERSAMPLING = 8


@dataclass(frozen=True, eq=False)
class Obj:
    """A thing in a scene.

    Attributes:
        category (ToyClass): Its class.
        polygon (np.ndarray): (K, 2) float64 outline as x, y in pixels, before occlusion; may leave the image.
        mask (np.ndarray): (H, W) bool, the pixels where the object is visible. It has no holes.
        bbox (Tuple[int, int, int, int]): Tight box x1, y1, x2, y2 of the mask in pixels, x2 and y2 exclusive.
    """
    category: ToyClass
    polygon: np.ndarray
    mask: np.ndarray
    bbox: Tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its ground truth.

    Attributes:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        objects (Tuple[Obj, ...]): The things, from the farthest to the nearest. Their masks are disjoint.
        semantic (np.ndarray): (H, W) uint8 index into ``TOY_CLASSES`` for every pixel.
    """
    image: np.ndarray
    objects: Tuple[Obj, ...]
    semantic: np.ndarray


def _regular(num: int, phase: float = 0.0) -> np.ndarray:
    angles = phase + 2 * np.pi * np.arange(num) / num
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int, inner: float) -> np.ndarray:
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return _regular(2 * points, -np.pi / 2) * radii[:, None]


# Simple polygons in the unit circle, y downwards: no holes, so a COCO polygon describes them exactly.
_SHAPES = dict(
    ellipse=_regular(32) * (0.55, 1.0),
    hexagon=_regular(6) * 0.9,
    trapezoid=np.array([(-0.5, -0.5), (0.5, -0.5), (0.95, 0.45), (-0.95, 0.45)]),
    star=_star(5, 0.45),
    rectangle=np.array([(-0.9, -0.5), (0.9, -0.5), (0.9, 0.5), (-0.9, 0.5)]),
    half_disc=np.concatenate([[(-1.0, 0.0)], _regular(32)[:17]]) * (1.0, 1.1) - (0.0, 0.45),
    diamond=np.array([(0.0, -1.0), (0.65, 0.0), (0.0, 1.0), (-0.65, 0.0)]),
    l_shape=np.array([(-0.6, -0.9), (-0.1, -0.9), (-0.1, 0.15), (0.65, 0.15), (0.65, 0.75), (-0.6, 0.75)]),
    u_shape=np.array([(-0.9, -0.6), (-0.4, -0.6), (-0.4, 0.0), (0.4, 0.0), (0.4, -0.6), (0.9, -0.6), (0.9, 0.6),
                      (-0.9, 0.6)]),
    cross=np.array([(-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3), (0.3, 0.9),
                    (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3)]),
)

# Thing -> shape, texture, hue in turns. The hues leave out the greens around that of the grass.
_LOOKS = dict(
    person=('ellipse', 'plain', 0.00),
    bicycle=('hexagon', 'dots', 0.72),
    car=('trapezoid', 'stripes', 0.07),
    airplane=('star', 'plain', 0.15),
    bus=('rectangle', 'checker', 0.42),
    boat=('half_disc', 'stripes', 0.62),
    bottle=('diamond', 'dots', 0.50),
    chair=('l_shape', 'plain', 0.79),
    sofa=('u_shape', 'checker', 0.86),
    tv=('cross', 'stripes', 0.93),
)

# Stuff -> hue, saturation, value, contrast of the smooth variation, standard deviation of the grain (of 255).
_STUFF_LOOKS = dict(
    wall=(0.09, 0.18, 0.78, 6.0, 3.0),
    sky=(0.56, 0.30, 0.92, 10.0, 1.0),
    grass=(0.26, 0.45, 0.58, 12.0, 9.0),
)
_BACKDROPS = (('sky', 'grass'), ('wall', 'grass'), ('sky', 'wall', 'grass'))
_CLASS_INDEX = {cls.name: i for i, cls in enumerate(TOY_CLASSES)}


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return cv2.resize(rng.normal(size=(4, 5)), (width, height), interpolation=cv2.INTER_CUBIC)


def _backdrop(rng: np.random.Generator, height: int, width: int) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the (H, W, 3) float image and the (H, W) uint8 class indices of a scene without things."""
    image = np.empty((height, width, 3))
    semantic = np.empty((height, width), np.uint8)
    rows = (np.arange(height)[:, None] + 0.5) / height
    columns = (np.arange(width)[None] + 0.5) / width
    names = _BACKDROPS[rng.integers(len(_BACKDROPS))]
    for layer, name in enumerate(names):
        # Each layer hides what is below its wavy upper edge; the first one fills the image.
        edge = (layer + rng.uniform(-0.2, 0.2)) / len(names) if layer else -1.0
        wave = 0.02 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * columns + rng.uniform()))
        region = rows >= edge + wave + rng.uniform(-0.1, 0.1) * (columns - 0.5)

        hue, saturation, value, contrast, grain = _STUFF_LOOKS[name]
        colour = _rgb(hue + rng.uniform(-HUE_JITTER, HUE_JITTER), saturation, value * rng.uniform(0.85, 1.08))
        shade = contrast * _smooth_noise(rng, height, width) + rng.normal(scale=grain, size=(height, width))
        gradient = 30 * (rows - 0.5) * rng.uniform(-1, 1)
        image[region] = (colour + (shade + gradient)[..., None])[region]
        semantic[region] = _CLASS_INDEX[name]
    return image, semantic


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second tone of a texture goes, at the shape coordinates u, v."""
    u, v = 2 * np.pi * 2.2 * u, 2 * np.pi * 2.2 * v
    if texture == 'stripes':
        return np.sin(u) > 0
    if texture == 'checker':
        return np.sin(u) * np.sin(v) > 0
    if texture == 'dots':
        return np.cos(u) + np.cos(v) > 0.8
    return np.zeros(u.shape, bool)


def _coverage(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """The share of each pixel that a polygon covers: (H, W) float in [0, 1]."""
    subpixel_bits = 4
    # OpenCV puts integer coordinates at the pixel centres.
    points = np.rint((polygon * SUPERSAMPLING - 0.5) * 2**subpixel_bits).astype(np.int32)
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(canvas, [points], (255, ), shift=subpixel_bits)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / 255


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def _has_hole(mask: np.ndarray) -> bool:
    _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return bool((hierarchy[0, :, 3] >= 0).any())


def _bbox(mask: np.ndarray) -> Tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + width, y + height


def _paint(rng: np.random.Generator, image: np.ndarray, coverage: np.ndarray, name: str,
           local: np.ndarray) -> np.ndarray:
    """Blends a thing into an image; ``local`` holds the (H, W, 2) shape coordinates of the pixel centres."""
    _, texture, hue = _LOOKS[name]
    hue = hue + rng.uniform(-HUE_JITTER, HUE_JITTER)
    saturation, value = rng.uniform(0.6, 0.85), rng.uniform(0.75, 1.0)
    u, v = local[..., 0], local[..., 1]
    pattern = _pattern(texture, u, v)[..., None]
    colour = np.where(pattern, _rgb(hue, saturation, 0.55 * value), _rgb(hue, saturation, value))
    shading = 1 - 0.15 * np.clip(v, -1, 1)[..., None]  # lit from above
    alpha = coverage[..., None]
    return (1 - alpha) * image + alpha * shading * colour


def check_scene_arguments(seed: int, index: int, size: Tuple[int, int]) -> None:
    """Raises the ``ValueError`` that :func:`generate_scene` would."""
    if min(seed, index) < 0:
        raise ValueError(f'seed and index must not be negative, but got {seed} and {index}')
    if min(size) < MIN_SIZE:
        raise ValueError(f'size must be at least {MIN_SIZE} x {MIN_SIZE} pixels, but got {size[0]} x {size[1]}')


def generate_scene(seed: int, index: int, size: Tuple[int, int] = (128, 160)) -> Scene:
    """Draws one scene. It depends on nothing but the arguments.

    Args:
        seed (int): Seed of the data set, 0 or more.
        index (int): Number of the scene within the data set, 0 or more.
        size (Tuple[int, int]): Height and width of the image in pixels, each at least 32. Defaults to (128, 160).

    Returns:
        The scene, with 2 to 5 objects, each of which shows at least half of its area.

    Raises:
        ValueError: If ``size`` is too small, or ``seed`` or ``index`` is negative.
    """
    check_scene_arguments(seed, index, size)
    height, width = size
    rng = np.random.default_rng([seed, index])
    image, semantic = _backdrop(rng, height, width)
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)

    categories: List[ToyClass] = []
    polygons: List[np.ndarray] = []
    masks: List[np.ndarray] = []
    num_objects = rng.integers(*NUM_OBJECTS, endpoint=True)
    while len(masks) < num_objects:
        name = str(rng.choice(list(_LOOKS)))
        radius = rng.uniform(*SCALE_RANGE) * min(size)
        tilt = rng.uniform(-MAX_TILT, MAX_TILT)
        position = rng.uniform((0, 0), (width, height))
        rotation = np.array([(np.cos(tilt), -np.sin(tilt)), (np.sin(tilt), np.cos(tilt))])
        polygon = radius * _SHAPES[_LOOKS[name][0]] @ rotation.T + position
        coverage = _coverage(polygon, height, width)
        mask = coverage > 0.5

        # Try again if the new object would leave too little of itself or another in view, or cut a hole into one.
        visible = [m & ~mask for m in masks] + [mask]
        areas = [_polygon_area(p) for p in polygons + [polygon]]
        if any(m.sum() < MIN_VISIBLE * a or _has_hole(m) for m, a in zip(visible, areas)):
            continue
        masks = visible
        categories.append(TOY_CLASSES[_CLASS_INDEX[name]])
        polygons.append(polygon)
        semantic[mask] = _CLASS_INDEX[name]
        image = _paint(rng, image, coverage, name, (centres - position) @ rotation / radius)

    direction = _regular(1, rng.uniform(0, 2 * np.pi))[0] / (height, width)
    light = rng.uniform(0.85, 1.1) + 0.3 * (centres[..., ::-1] - np.divide(size, 2)) @ direction
    image = image * light[..., None] + rng.normal(scale=rng.uniform(2, 7), size=image.shape)
    objects = tuple(Obj(c, p, m, _bbox(m)) for c, p, m in zip(categories, polygons, masks))
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), objects, semantic)
