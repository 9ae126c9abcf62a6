"""What an exported file says of itself, so that a program without torch and OpenMMLab can use it. This module needs neither.

It is JSON, in the metadata of an ONNX file, and in ``rt_info`` of OpenVINO's format, under the key ``slak_mm``::

    version         1
    task            'classification', 'segmentation' or 'detection'; 'features' of a backbone alone
    model           class of the config's model, e.g. 'CascadeRCNN'
    classes         names, by label; null if nobody knows them
    palette         colours [[r, g, b], ...], by label; null if nobody knows them
    outputs         names, in order
    input           name        'images'
                    channels    3
                    dtype       'uint8' if the pre-processing is inside, else 'float32'
                    size        [height, width]; null if they are free, from min_size on
                    min_size    [height, width], least ones
                    batch       1, or null if it is free
    preprocess      inside      whether the file normalizes: then images are as they were read and resized
                    mean, std   of the channels as the network wants them; null if it wants none
                    swap        whether the network wants red and blue of three channels swapped: OpenCV reads blue first
                    divisor     the file itself pads height and width to a multiple of this, at the right and at the bottom, after it
                                normalized: not to be done before
                    pad_value   with which number
    load            color_type  mmcv's flag, e.g. 'color': three channels, blue first, turned as EXIF says
                    backend     mmcv's decoder: 'cv2', 'pillow', ...
    pipeline        what happens to an image between loading and the file, in order; null if a step is not one of these:
                    {op: 'resize', scale: [width, height], keep_ratio: true: it fits into scale, false: it fills it, interpolation,
                     backend}
                    {op: 'resize_factor', factor: [width, height], interpolation, backend}
                    {op: 'resize_edge', edge: 'short', 'long', 'width' or 'height', size, interpolation, backend}
                    {op: 'center_crop', size: [height, width]}
                    interpolation is mmcv's name, backend 'cv2' or 'pillow'
    segmentation    align_corners   how to resize ``scores`` to another size, by bilinear interpolation, before labels are taken
                    threshold       with one channel of scores: a pixel is of the class if their sigmoid is above it; else null
    detection       mask_threshold  a pixel is in the mask if its probability is at least this; null without masks

Entries of another task are missing. The outputs, of float32 if not said otherwise::

    classification  scores (batch, classes): probabilities; or, if they were asked for, logits, before softmax
    segmentation    labels (batch, height, width), int64, at the size of the input;
                    scores (batch, classes, height, width), before softmax
    detection       boxes (n, 4): x1, y1, x2, y2 in pixels of the input; scores (n,), the best first; labels (n,), int64;
                    masks (n, h, w): probabilities on a grid over the box
    features        stage0, stage1, ...: maps (batch, channels, height, width)

To paste a mask on the image: the pixel (y, x) has its centre at (y + .5, x + .5). In the box it is at
``u = (x + .5 - x1) / (x2 - x1)``, and so v. The mask's value there is interpolated bilinearly between the centres of its cells, the
cell i at ``(i + .5) / w``, with zeros around it: at ``u * w - .5`` in cells.
"""
import json
from pathlib import Path
from typing import Any, Dict, Union

from ..errors import InputError

KEY, VERSION = 'slak_mm', 1
SUFFIXES = '.onnx', '.xml'
TASKS = dict(mmpretrain='classification', mmseg='segmentation', mmdet='detection')


def is_exported(path: Union[str, Path, None]) -> bool:
    """Whether a path is one of an exported file, by its suffix."""
    return str(path).lower().endswith(SUFFIXES)


def pack(description: Dict[str, Any]) -> str:
    """The text to be written under :data:`KEY`."""
    return json.dumps(dict(version=VERSION, **description))


def unpack(text: str, path: Union[str, Path]) -> Dict[str, Any]:
    """The description in the text of a file.

    Args:
        text (str): What stands under :data:`KEY`; empty if nothing does.
        path (str | Path): Of the file, for the message.

    Raises:
        InputError: There is no description, or one of a newer version.
    """
    try:
        found = json.loads(text)
        version = found['version']
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{path} does not say what it expects and returns: tools/export.py did not write it. Export the checkpoint '
                         'with it.') from None
    if version > VERSION:
        raise InputError(f'{path} is of version {version}, of which this slak_mm knows nothing: update slak_mm.')
    return found
