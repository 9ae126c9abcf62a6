"""Parameters and multiply-adds of a config's model, dense and sparsity-aware; --paper and --kernel-scaling need no config.

Multiply-adds of convolutions and matrix products count, with all taps of a kernel: see docs/flops.md.
"""
import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

import common
from rich.console import Console
from rich.progress import track
from rich.table import Table

from slak_mm.analysis import config_flops, flops, paper_flops
from slak_mm.errors import InputError, UserError
from slak_mm.registry import library_of


def paper(out: Optional[Path]) -> None:
    """Prints our number and the paper's for each row, and writes the table as Markdown."""
    titles = ['table', 'network', 'parameters, M', 'paper', 'off', 'FLOPs, G', 'paper', 'off', 'within 2%']
    table, lines = Table(*titles), [titles, ['---'] * len(titles)]
    for row in track(paper_flops.paper_rows(), 'counting', console=Console(stderr=True)):
        counted = paper_flops.measure(row)
        cells, close = [row.table, row.name], True
        for ours, theirs, digits in ((counted.sparse_parameters / 1e6, row.paper[0], 1), (counted.sparse_macs / 1e9, row.paper[1], 2)):
            deviation = ours / theirs - 1
            close &= abs(deviation) <= paper_flops.TOLERANCE
            cells += [f'{ours:.{digits}f}', f'{theirs:g}', f'{deviation:+.1%}']
        cells.append('yes' if close else f'no: {paper_flops.REASONS.get((row.table, row.name), "not explained")}')
        table.add_row(*cells)
        lines.append(cells)
    show(table)
    print('Table 6 states accuracies alone.')
    if out:
        write(out, '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n')


def draw(out: Path) -> None:
    """Figure 4, left: GFLOPs and parameters over the kernel size, as a table and a picture."""
    import matplotlib
    matplotlib.use('Agg')
    from slak_mm.analysis.flops_figure import draw_kernel_scaling
    counted = flops.kernel_scaling()
    table = Table('kernel size', *(f'{form}: {unit}' for form in counted for unit in ('GFLOPs', 'parameters, M')))
    for i, kernel_size in enumerate(flops.KERNEL_SIZES):
        table.add_row(str(kernel_size), *(text for of_form in counted.values() for text in
                                          (f'{of_form[i].macs / 1e9:.1f}', f'{of_form[i].parameters / 1e6:.1f}')))
    show(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_kernel_scaling(counted, out, flops.KERNEL_SIZES)
    print(out)


def show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a pipe nothing is cut to 80 columns


def write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(out)


def count(args: argparse.Namespace) -> None:
    """Prints what the model of a config costs."""
    cfg = common.load_config(args)
    shape = tuple(args.shape or config_flops.SHAPES.get(library_of(cfg), ()))
    counted, origin = config_flops.count(cfg, shape, args.checkpoint, args.allocation, args.sparsity)
    if args.by_layer:
        layers = Table('layer', 'weight', 'density', 'multiply-adds, M', 'active, M')
        for layer in counted.layers:
            layers.add_row(layer.name, 'x'.join(map(str, layer.shape)), f'{layer.density:.3f}', f'{layer.macs / 1e6:,.1f}',
                           f'{layer.macs * layer.density / 1e6:,.1f}')
        show(layers)
    table = Table('', 'dense', f'active ({origin})', title=f'{Path(args.config).stem} at {shape[0]}x{shape[1]}')
    table.add_row('parameters', f'{counted.parameters:,}', f'{counted.sparse_parameters:,}')
    table.add_row('multiply-adds', f'{counted.macs:,}', f'{counted.sparse_macs:,}')
    table.add_row('GFLOPs, as the paper has them', f'{counted.macs / 1e9:.2f}', f'{counted.sparse_macs / 1e9:.2f}')
    show(table)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config of a classifier, segmentor or detector')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='of the image; defaults to the paper\'s: 224 224, 512 2048 (mmseg), 800 1280 (mmdet)')
    parser.add_argument('--checkpoint', help='path or URL: its masks, or the zeros of its weights, say how dense each layer is')
    parser.add_argument('--allocation', choices=flops.ALLOCATIONS, help='how dense sparse pre-training makes each layer')
    parser.add_argument('--sparsity', type=float, help='for --allocation: share of the weights that is zero')
    parser.add_argument('--by-layer', action='store_true', help='each layer too')
    common.add_cfg_options(parser)
    parser.add_argument('--paper', action='store_true', help='our numbers next to those of Tables 1 to 5 and 8')
    parser.add_argument('--kernel-scaling', action='store_true', help='Figure 4, left')
    parser.add_argument('--out', type=Path, help='--paper: Markdown file to write; --kernel-scaling: picture to write, by default '
                        'docs/images/kernel_scaling.png')
    args = parser.parse_args(argv)
    if [bool(args.config), args.paper, args.kernel_scaling].count(True) != 1:
        parser.error('give a config, or --paper, or --kernel-scaling')
    if args.config is None and (args.shape or args.checkpoint or args.allocation or args.by_layer or args.cfg_options):
        parser.error('--paper and --kernel-scaling take --out alone')
    if args.config and args.out:
        parser.error('--out is for --paper and --kernel-scaling')
    if args.checkpoint and args.allocation:
        parser.error('give --checkpoint or --allocation, not both')
    if (args.allocation is None) != (args.sparsity is None):
        parser.error('--allocation and --sparsity go together')
    if args.sparsity is not None and not 0 <= args.sparsity < 1:
        parser.error('--sparsity is a share, from 0 to below 1')
    if args.shape and min(args.shape) < 32:
        parser.error('--shape: the backbone needs images of at least 32 32')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    try:
        if args.paper:
            paper(args.out)
        elif args.kernel_scaling:
            draw(args.out or Path('docs/images/kernel_scaling.png'))
        else:
            count(args)
    except ValueError as error:  # of what a backbone or an allocation cannot be
        raise error if isinstance(error, UserError) else InputError(str(error)) from error


if __name__ == '__main__':
    common.run(main)
