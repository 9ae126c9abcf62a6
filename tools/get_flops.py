"""Parameters and multiply-adds of a config's model, dense and sparsity-aware; --paper and --kernel-scaling need no config.

Multiply-adds of convolutions and matrix products count, with all taps of a kernel: see docs/flops.md.
"""
import argparse
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import common
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from slak_mm.analysis import flops
from slak_mm.analysis.flops import KERNEL_SIZES, Complexity, Pretraining, allocate, complexity
from slak_mm.checkpoints import CheckpointError, load_file
from slak_mm.models import SLaK

CONFIGS = Path(__file__).parents[1] / 'configs'
SHAPES = dict(mmpretrain=(224, 224), mmseg=(512, 2048), mmdet=(800, 1280))  # the paper's
TOLERANCE = .02
SPARSE = .4
SNIP = 'SNIP here sees 4 images of noise; the paper\'s FLOPs lie between ours and '
# why a row is off, by table and network
REASONS = {
    ('1', 'naive, 31'): 'its own next column has 6.1G for this network with a 5x5 branch added',
    ('2', 'sparse groups, 51'): SNIP + "those with 1 image (3.23G); 60% of its 31M are 18.5M, not 18M",
    ('2', 'sparse groups, 61'): SNIP + 'those with 1 image (3.31G)',
    ('4', 'UperNet, SLaK-S'): "Table 3's 9.8G times 20.9 (area) and 848G of UperNet are 1053G; its 54M of backbone and 34M are 88M",
    ('4', 'UperNet, SLaK-B'): "Table 3's 17.1G times 20.9 (area) and 852G of UperNet are 1209G; its 94M of backbone and 37M are 131M",
    ('5', 'Faster R-CNN, ConvNeXt-T (RepLKNet)'):
        '31x31 kernels cannot cost less than 7x7: by Table 1 they add 33G; by Table 4 they add 4M parameters, not 10M',
    ('5', 'Faster R-CNN, SLaK-T'): "Table 3's 5.0G times 20.4 (area) and 118G of neck and heads are 220G; 29M and 18M are 47M",
    ('8', 'sparsity 0.70, width 1.9'): SNIP + 'those with 1 image (5.13G)',
    ('8', 'sparsity 0.82, width 2.5'): SNIP + 'those of uniform sparsity (5.37G)',
}


class Row(NamedTuple):
    """A row of the paper, in millions of parameters and GFLOPs, as (parameters, FLOPs); None where the paper has none."""
    table: str
    name: str
    backbone: dict
    paper: Tuple[float, float]
    sparsity: float = 0.
    config: Optional[str] = None
    size: Tuple[int, int] = (224, 224)


def kernels(largest: int) -> Tuple[int, ...]:
    return {7: (7, 7, 7, 7), 31: (31, 29, 27, 13), 51: (51, 49, 47, 13), 61: (61, 59, 57, 13)}[largest]


def network(arch: str, largest: int, form: str = 'decomposed', width: float = 1.) -> dict:
    return dict(arch=arch, kernel_sizes=kernels(largest), large_kernel=form, width_factor=width)


def convnext(arch: str) -> dict:
    return network(arch, 7, 'naive')


def slak(arch: str, largest: int = 51, width: float = 1.3) -> dict:
    return network(arch, largest, width=width)


def paper_rows() -> List[Row]:
    """Each row of Tables 1 to 5 and 8 that states parameters and FLOPs of a ConvNeXt, its RepLKNet form, or a SLaK."""
    rows = []
    for largest, naive, reparam, decomposed, sparse, wide in (
            (7, (29, 4.5), None, (29, 4.5), (17, 2.6), (29, 4.5)),
            (31, (32, 6.5), (32, 6.1), (30, 5.0), (18, 2.9), (30, 4.8)),
            (51, (38, 9.4), (38, 9.3), (31, 5.4), (18, 3.1), (30, 5.0)),
            (61, (43, 11.6), (43, 11.5), (31, 5.6), (19, 3.2), (31, 5.2))):
        rows.append(Row('1', f'naive, {largest}', network('tiny', largest, 'naive'), naive))
        if reparam:
            rows.append(Row('1', f'RepLKNet, {largest}', network('tiny', largest, 'reparam'), reparam))
        # at 7 nothing is decomposed: the paper repeats ConvNeXt-T's 4.5G, and with 7x5 + 5x7 + 5x5 it would be 4.6G
        form = 'naive' if largest == 7 else 'decomposed'
        rows.append(Row('2', f'decomposed, {largest}', network('tiny', largest, form), decomposed))
        rows.append(Row('2', f'sparse groups, {largest}', network('tiny', largest, form), sparse, SPARSE))
        rows.append(Row('2', f'sparse groups, wider, {largest}', network('tiny', largest, form, 1.3), wide, SPARSE))
    for name, arch, size, paper in (('T', 'tiny', 224, (29, 4.5)), ('S', 'small', 224, (50, 8.7)), ('B', 'base', 224, (89, 15.4)),
                                    ('B, 384', 'base', 384, (89, 45.0))):
        rows.append(Row('3', f'ConvNeXt-{name}', convnext(arch), paper, size=(size, size)))
    for name, arch, size, sparse, dense in (
            ('T', 'tiny', 224, (30, 5.0), (50, 8.7)), ('S', 'small', 224, (55, 9.8), (91, 16.7)),
            ('B', 'base', 224, (95, 17.1), (158, 28.5)), ('B, 384', 'base', 384, (95, 50.3), (158, 83.8))):
        rows.append(Row('3', f'SLaK-{name}', slak(arch), sparse, SPARSE, size=(size, size)))
        rows.append(Row('3', f'SLaK-{name}, dense', slak(arch), dense, size=(size, size)))
    replknet = network('tiny', 31, 'reparam')
    for name, backbone, sparsity, paper in (
            ('ConvNeXt-T', convnext('tiny'), 0., (60, 939)), ('ConvNeXt-S', convnext('small'), 0., (82, 1027)),
            ('ConvNeXt-B', convnext('base'), 0., (122, 1170)), ('ConvNeXt-T (RepLKNet)', replknet, 0., (64, 973)),
            ('SLaK-T', slak('tiny'), SPARSE, (65, 936)), ('SLaK-S', slak('small'), SPARSE, (91, 1028)),
            ('SLaK-B', slak('base'), SPARSE, (135, 1172))):
        rows.append(Row('4', f'UperNet, {name}', backbone, paper, sparsity, 'upernet_slak_t_160k_ade20k.py', SHAPES['mmseg']))
    for name, backbone, sparsity, paper in (('ConvNeXt-T', convnext('tiny'), 0., (45, 208)),
                                            ('ConvNeXt-T (RepLKNet)', replknet, 0., (55, 207)),
                                            ('SLaK-T', slak('tiny'), SPARSE, (49, 205))):
        rows.append(Row('5', f'Faster R-CNN, {name}', backbone, paper, sparsity, 'faster_rcnn_slak_t_36e_voc07.py', SHAPES['mmdet']))
    for sparsity, width, paper in ((.2, 1.1, (29, 5.0)), (.4, 1.3, (30, 5.0)), (.55, 1.5, (30, 4.9)), (.7, 1.9, (32, 5.0)),
                                   (.82, 2.5, (32, 5.1))):
        rows.append(Row('8', f'sparsity {sparsity:.2f}, width {width}', slak('tiny', width=width), paper, sparsity))
    return sorted(rows, key=lambda row: row.table)


def build(cfg: Config) -> nn.Module:
    """The model of a config, at random weights, whatever its library."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the libraries, about their own defaults
        return MODELS.build(cfg.model)


def dress(config: str, backbone: dict) -> Config:
    """A segmentor's or detector's config with another SLaK."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.model.backbone.update(backbone)
    channels = [int(c * backbone['width_factor']) for c in SLaK.arch_settings[backbone['arch']]['channels']]
    if cfg.default_scope == 'mmseg':
        cfg.model.decode_head.in_channels = channels
        cfg.model.auxiliary_head.in_channels = channels[2]
    else:
        cfg.model.neck.in_channels = channels
    return cfg


@lru_cache(maxsize=None)
def paper_densities(backbone: Tuple[Tuple[str, object], ...], sparsity: float) -> Dict[str, float]:
    return allocate(dict(backbone), 'snip', sparsity)


def measure(row: Row) -> Complexity:
    """Our numbers of a row. Sparse rows have SNIP's densities; downstream, those of the backbone's pre-training."""
    densities = paper_densities(tuple(row.backbone.items()), row.sparsity) if row.sparsity else {}
    if row.config is None:
        with torch.device('meta'):
            return complexity(Pretraining(row.backbone), row.size, densities)
    model = build(dress(row.config, row.backbone)).to('meta')
    return complexity(model, row.size, {name: density for name, density in densities.items() if name.startswith('backbone.')})


def paper(out: Optional[Path]) -> None:
    """Prints our number beside the paper's for each row, and writes the table as Markdown."""
    titles = ['table', 'network', 'parameters, M', 'paper', 'off', 'FLOPs, G', 'paper', 'off', 'within 2%']
    table, lines = Table(*titles), [titles, ['---'] * len(titles)]
    for row in track(paper_rows(), 'counting', console=Console(stderr=True)):
        counted = measure(row)
        cells, close = [row.table, row.name], True
        for ours, theirs, digits in ((counted.sparse_parameters / 1e6, row.paper[0], 1), (counted.sparse_macs / 1e9, row.paper[1], 2)):
            deviation = ours / theirs - 1
            close &= abs(deviation) <= TOLERANCE
            cells += [f'{ours:.{digits}f}', f'{theirs:g}', f'{deviation:+.1%}']
        cells.append('yes' if close else f'no: {REASONS.get((row.table, row.name), "not explained")}')
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
    import matplotlib.pyplot as plt
    counted = flops.kernel_scaling()
    table = Table('kernel size', *(f'{form}: {unit}' for form in counted for unit in ('GFLOPs', 'parameters, M')))
    for i, kernel_size in enumerate(KERNEL_SIZES):
        table.add_row(str(kernel_size), *(text for of_form in counted.values() for text in
                                          (f'{of_form[i].macs / 1e9:.1f}', f'{of_form[i].parameters / 1e6:.1f}')))
    show(table)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    labels = dict(naive='full, MxM', decomposed='decomposed, Mx5 + 5xM + 5x5')
    for axis, title, value in ((axes[0], 'GFLOPs (multiply-adds)', lambda c: c.macs / 1e9),
                               (axes[1], 'parameters, millions', lambda c: c.parameters / 1e6)):
        for (form, of_form), colour in zip(counted.items(), ('goldenrod', 'seagreen')):
            axis.plot(KERNEL_SIZES, list(map(value, of_form)), 'o-', color=colour, label=labels[form])
        axis.set(xlabel='kernel size M, in every stage', ylabel=title, xticks=KERNEL_SIZES[::2], ylim=(0, None))
        axis.grid(alpha=.3)
        axis.legend()
    figure.suptitle('ConvNeXt-T at 224x224: what larger kernels cost')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


def show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a pipe nothing is cut to 80 columns


def write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(out)


def find_densities(cfg: Config, model: nn.Module, args: argparse.Namespace) -> Tuple[Dict[str, float], str]:
    """Of the layers of ``model``, and where they are from."""
    if args.checkpoint:
        masks = load_file(args.checkpoint).get('sparsity', {}).get('masks')
        if masks is not None:
            return flops.densities_of_masks(model, masks), f'masks of {args.checkpoint}'
        load(model, args.checkpoint)
        return flops.densities_of_weights(model), f'zeros of {args.checkpoint}'
    if args.allocation is None:
        return {}, 'dense'
    backbone = dict(cfg.model.backbone)
    if backbone.pop('type') not in ('SLaK', 'slak_mm.SLaK') or backbone.get('deploy'):
        raise ValueError('--allocation is of a SLaK as it is trained (not deploy=True): for other models, use --checkpoint')
    classes = cfg.model.head.num_classes if cfg.default_scope == 'mmpretrain' else flops.CLASSES
    densities = allocate(backbone, args.allocation, args.sparsity, classes)
    own = dict(model.named_parameters())
    return {name: density for name, density in densities.items() if name in own}, f'{args.allocation}, sparsity {args.sparsity}'


def load(model: nn.Module, path: str) -> None:
    """The weights of any file that tools/test.py takes; those of another head are passed over."""
    state_dict = CheckpointLoader.load_checkpoint(common.source(path), 'cpu')['state_dict']
    own = model.state_dict()
    fitting = {name: value for name, value in state_dict.items()
               if name.startswith('backbone.') or name in own and own[name].shape == value.shape}
    if not fitting.keys() & own.keys():
        raise CheckpointError(f'{path} has no weight of this model; it has {[*state_dict][:3]}.')
    model.load_state_dict(fitting, strict=False)


def count(args: argparse.Namespace) -> None:
    """Prints what the model of a config costs."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if cfg.get('default_scope') not in SHAPES:
        raise ValueError(f'{args.config}: default_scope={cfg.get("default_scope")!r} must be one of {tuple(SHAPES)}')
    shape = tuple(args.shape or SHAPES[cfg.default_scope])
    model = build(cfg)
    densities, origin = find_densities(cfg, model, args)
    in_channels = cfg.model.backbone.get('in_channels', 3)
    try:
        counted = complexity(model.to('meta'), shape, densities, in_channels)
    except (NotImplementedError, RuntimeError):  # its forward depends on the data, or on operators that must compute
        counted = complexity(build(cfg), shape, densities, in_channels)
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


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config of a classifier, segmentor or detector')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='of the image; defaults to the paper\'s: 224 224, 512 2048 (mmseg), 800 1280 (mmdet)')
    parser.add_argument('--checkpoint', help='path or URL: its masks, or the zeros of its weights, say how dense each layer is')
    parser.add_argument('--allocation', choices=flops.ALLOCATIONS, help='how dense sparse pre-training makes each layer')
    parser.add_argument('--sparsity', type=float, help='for --allocation: share of the weights that is zero')
    parser.add_argument('--by-layer', action='store_true', help='each layer too')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings of the config to override')
    parser.add_argument('--paper', action='store_true', help='our numbers beside those of Tables 1 to 5 and 8')
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
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    common.run(main)
