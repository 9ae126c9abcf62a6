"""A page that shows what an exported model says of an image: picture, classes and time. It needs neither torch nor OpenMMLab.

    pip install gradio onnxruntime opencv-python-headless     # openvino in onnxruntime's place for an .xml file
    python projects/gradio_demo/app.py FILE.onnx
"""
import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Tuple

import gradio
import numpy as np
from PIL import Image, ImageDraw

from slak_mm.deploy import Session


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', help='of tools/export.py: .onnx or .xml')
    parser.add_argument('--score-thr', type=float, default=.3, help='least score of a box that is drawn; defaults to 0.3')
    parser.add_argument('--host', default='127.0.0.1', help='address; 0.0.0.0 is all of this machine. Defaults to 127.0.0.1')
    parser.add_argument('--port', type=int, default=7860, help='defaults to 7860')
    return parser.parse_args(argv)


def colours(description: Dict[str, Any], count: int) -> np.ndarray:
    """The palette (count, 3) that the file has, or one that always is the same."""
    palette = description.get('palette') or []
    return np.uint8(palette if len(palette) >= count else np.random.RandomState(42).randint(0, 255, (count, 3)))


def name_of(description: Dict[str, Any], label: int) -> str:
    return description['classes'][label] if description['classes'] else f'class {label}'


def draw_scores(image: np.ndarray, found: dict, description: dict, score_thr: float) -> Tuple[np.ndarray, List[list]]:
    best = found['scores'].argsort()[::-1][:5]
    return image, [[name_of(description, label), f'{found["scores"][label]:.1%}'] for label in best]


def draw_maps(image: np.ndarray, found: dict, description: dict, score_thr: float) -> Tuple[np.ndarray, List[list]]:
    labels = found['labels']
    palette = colours(description, max(len(found['scores']), int(labels.max()) + 1))
    counts = Counter(labels.ravel().tolist()).most_common()
    return ((image * .4 + palette[labels] * .6).astype(np.uint8),
            [[name_of(description, label), f'{count / labels.size:.1%} of the image'] for label, count in counts])


def draw_boxes(image: np.ndarray, found: dict, description: dict, score_thr: float) -> Tuple[np.ndarray, List[list]]:
    kept = np.flatnonzero(found['scores'] >= score_thr)
    palette = colours(description, int(found['labels'].max(initial=0)) + 1)
    painted = image.astype(np.float32)
    for i in kept if 'masks' in found else ():
        mask = found['masks'][i]
        painted[mask] = painted[mask] * .5 + palette[found['labels'][i]] * .5
    picture = Image.fromarray(painted.astype(np.uint8))
    pen, width = ImageDraw.Draw(picture), max(2, max(image.shape) // 400)
    rows = []
    for i in kept:
        box, colour = found['boxes'][i], tuple(palette[found['labels'][i]].tolist())
        name = name_of(description, int(found['labels'][i]))
        pen.rectangle([tuple(box[:2]), tuple(box[2:])], outline=colour, width=width)
        pen.text((box[0] + width + 1, box[1] + width), name, fill='white', stroke_width=2, stroke_fill='black')
        rows.append([name, f'{found["scores"][i]:.1%}'])
    return np.asarray(picture), rows


DRAW = dict(classification=draw_scores, segmentation=draw_maps, detection=draw_boxes)


def build_page(session: Session, title: str, score_thr: float) -> gradio.Blocks:
    """Image in; picture, classes and time out."""

    def show(image):
        if image is None:
            raise gradio.Error('Choose an image first.')
        begin = time.perf_counter()
        found = session(image)
        seconds = time.perf_counter() - begin
        picture, rows = DRAW[session.description['task']](image, found, session.description, score_thr)
        return picture, rows, f'{image.shape[1]}x{image.shape[0]}: {seconds * 1000:.0f} ms'

    with gradio.Blocks(title=title) as page:
        gradio.Markdown(f'# {title}\n{session.description["model"]}, {session.description["task"]}')
        with gradio.Row():
            image = gradio.Image(label='Image', type='numpy', image_mode='RGB', sources=['upload', 'webcam', 'clipboard'])
            picture = gradio.Image(label='Prediction', format='png')
        button = gradio.Button('Predict', variant='primary')
        duration = gradio.Textbox(label='Time', interactive=False)
        table = gradio.Dataframe(headers=['class', 'share or score'], label='Classes', interactive=False)
        button.click(show, image, [picture, table, duration], api_name='predict')
    return page


def main(argv=None):
    args = parse_args(argv)
    build_page(Session(args.file), Path(args.file).name, args.score_thr).launch(server_name=args.host, server_port=args.port)


if __name__ == '__main__':
    main()
