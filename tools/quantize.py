"""Writes an exported file whose products are of 8-bit numbers: smaller and faster, at a loss that is measured first.

    python tools/quantize.py CONFIG model.xml model_int8.xml --calibrate 128 --max-drop 1

It is calibrated on images of the config's training data, and both files are tested on its test data. The table has their metrics, size
and speed, and the layers whose outputs have changed most.
"""
import argparse
import logging
from pathlib import Path

import common
from mmengine.logging import print_log
from rich.console import Console
from rich.table import Table

from slak_mm.checks import refusing
from slak_mm.deploy.files import draft_of, files_of
from slak_mm.deploy.runtime import needing, open_exported
from slak_mm.errors import UserError
from slak_mm.registry import library_of

WORST, WRONG = 10, .5  # layers that are listed; change of a layer that is more than rounding
# what --max-drop is about, and how many points 1 of it is
METRICS = dict(mmpretrain=('accuracy/top1', 1), mmseg=('mIoU', 1), mmdet=('mAP', 100))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config that the file was exported with')
    parser.add_argument('file', help='a file of tools/export.py: .xml is quantized by nncf, .onnx by onnxruntime')
    parser.add_argument('out', type=Path, metavar='OUT', help='file to write, of the same suffix')
    parser.add_argument('--calibrate', type=int, default=128, metavar='N', help='images of the training data; defaults to 128')
    parser.add_argument('--max-drop', type=float, metavar='POINTS',
                        help='write nothing if mAP, mIoU or top-1 accuracy drops by more, of 100')
    parser.add_argument('--threads', type=int, default=0, help='of the runtime, when speed is measured; defaults to one for each core')
    parser.add_argument('--seconds', type=float, default=10, help='for how long speed is measured; defaults to 10')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.calibrate < 1:
        parser.error('--calibrate: at least one image')
    if args.out.suffix.lower() != Path(args.file).suffix.lower():
        parser.error(f'OUT: {args.out} must have the suffix of {args.file}')
    if args.out.absolute() == Path(args.file).absolute():
        parser.error('OUT is the file itself')
    return args


def drop(cfg, before, after):
    """By how many points of 100 the metrics drop that count, and their names."""
    name, scale = METRICS[str(library_of(cfg))]
    names = [key for key in before if key == name or key.endswith(f'_{name}') or key.endswith(f'/{name}')] or [*before][:1]
    return max(scale * (before[key] - after[key]) for key in names), names


def table_of(before, after, sizes, speeds, runtime):
    table = Table()
    for column in ('', 'before', 'int8', ''):
        table.add_column(column, justify='left' if not column and not table.columns else 'right')
    for name, value in before.items():
        table.add_row(name, f'{value:.4g}', f'{after[name]:.4g}', f'{after[name] - value:+.3g}')
    table.add_row('MB', *(f'{size:.2f}' for size in sizes), f'x {sizes[1] / sizes[0]:.2f}')
    table.add_row(f'ms an image, {runtime}', *(f'{speed:.1f}' for speed in speeds), f'{speeds[0] / speeds[1]:.2f} times as fast')
    return table


def main(argv=None):
    args = parse_args(argv)
    cfg = common.load_config(args)
    with needing():
        from slak_mm.deploy import quantization
    from slak_mm.deploy.calibration import calibration_images, metrics_of
    console = Console(highlight=False)
    with refusing(args.config), needing(), draft_of(args.out) as draft:
        new = str(draft)
        runtime = type(open_exported(args.file)).__name__
        with console.status('reading images'):
            images = calibration_images(cfg, args.file, args.calibrate)
        console.print(f'images of the training data: {len(images)}')
        with console.status('quantizing'):
            quantization.quantize(args.file, images, new)
        metrics = []
        for title, path in (('testing the file', args.file), ('testing the quantized file', new)):
            with console.status(title):
                metrics.append(metrics_of(cfg, path))
        with console.status('comparing layers'):
            errors = quantization.layer_errors(args.file, new, images[:4])
        with console.status('measuring speed'):
            speeds = quantization.compare_speed([args.file, new], images[0], args.threads, args.seconds)
        sizes = [sum(part.stat().st_size for part in files_of(path)) / 1e6 for path in (args.file, new)]
        console.print(table_of(*metrics, sizes, speeds, runtime))
        worst = Table('layers that changed most', 'difference, relative')
        worst.columns[0].overflow = 'fold'
        for name, error in list(errors.items())[:WORST]:
            worst.add_row(name, f'{error:.1%}')
        console.print(worst)
        wrong = [name for name, error in errors.items() if error > WRONG]
        if wrong:
            print_log(f'{len(wrong)} layers changed by more than {WRONG:.0%}, {wrong[0]} the most, which is more than rounding does. '
                      'Calibrate with images that are like those of the test, or keep the file as it is.', 'current', logging.WARNING)
        lost, names = drop(cfg, *metrics)
        if args.max_drop is not None and not lost <= args.max_drop:
            raise UserError(f'{", ".join(names)} drops by {lost:.2f} points, more than --max-drop {args.max_drop:g}. Nothing was '
                            'written: calibrate with more images, or keep the file as it is.')
    console.print(f'{args.out}: written')


if __name__ == '__main__':
    common.run(main)
