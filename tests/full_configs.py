"""Models of our configs in full size, on small images.

    python tests/full_configs.py [PART_OF_A_NAME ...]

trains, saves, resumes and tests those of the heads that the paper has not, or all whose names have a part, by the tools, and prints
what docs/model_zoo.md says of them.

    python tests/full_configs.py --compact [PART_OF_A_NAME ...]

trains a classifier, a segmentor and a detector without 40% of their neurons and 30% of their filters, cuts these out, and prints how
far the outputs are from those of the trained model: also those of an exported file.
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Sequence, Tuple

import torch
from micro_configs import set_data, shrink_work
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from slak_mm.compat import load_weights_only
from slak_mm.models.build import build_model, quiet
from slak_mm.toy import LAYOUTS, ToySpec

ROOT = Path(__file__).parents[1]
NAMES = ['mask_rcnn_slak_t_1x_coco', 'mask_rcnn_slak_t_3x_coco', 'mask2former_slak_t_50e_coco', 'dino_slak_t_12e_coco',
         'rtmdet_slak_t_300e_coco', 'mask2former_slak_t_160k_ade20k', 'ham_slak_t_160k_ade20k']
COMPACTED = ['slak_t_300e_in1k', 'upernet_slak_t_160k_ade20k', 'faster_rcnn_slak_t_36e_voc07']


def small(name: str, folder: Path) -> Config:
    """The config with its own model, on one batch of two toy images; it ends after one iteration."""
    cfg = shrink_work(Config.fromfile(ROOT / 'configs' / f'{name}.py'))
    if 'batch_augments' in cfg.model.get('data_preprocessor', {}):
        cfg.model.data_preprocessor.batch_augments = None  # Mask2Former's pads to 1024 pixels
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 30  # DINO takes so many points of the maps, and these are small
    roots = {layout: folder / layout for layout in LAYOUTS}
    set_data(cfg, roots)
    layout = next(layout for layout, root in roots.items() if cfg.val_dataloader.dataset.data_root == str(root))
    if not roots[layout].exists():
        LAYOUTS[layout](roots[layout], ToySpec(num_train=2, num_val=1, size=(64, 80)))
    return cfg


def call(tool: str, *args: object, expected: Sequence[str] = ()) -> str:
    """Runs a tool; returns what it prints.

    Raises:
        RuntimeError: It fails, or does not say what it should.
    """
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / tool), *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    output = result.stdout + result.stderr
    if result.returncode or not all(part in output for part in expected):
        raise RuntimeError(f'{tool}: {output[-2000:]}')
    return output


def ending(cfg: Config) -> Tuple[str, List[str]]:
    """``epoch`` or ``iter``, and the options by which a training ends, and is saved, at the number put into their ``{}``."""
    by_epoch = 'max_epochs' in cfg.train_cfg
    unit, limit = ('epoch', 'max_epochs') if by_epoch else ('iter', 'max_iters')
    options = [f'train_cfg.{limit}={{}}', f'default_hooks.checkpoint.by_epoch={by_epoch}', 'default_hooks.checkpoint.interval=1']
    return unit, options if by_epoch else [*options, 'train_cfg.val_interval={}']


def run(name: str, folder: Path) -> str:
    """Trains for an iteration, resumes for another, tests. Returns a row of the table.

    Raises:
        RuntimeError: A tool fails, or does not say what it should.
    """
    cfg, start = small(name, folder), time.monotonic()
    config, work_dir = folder / f'{name}.py', folder / name
    cfg.dump(config)
    unit, options = ending(cfg)
    for last, how in ((1, '--from-scratch'), (2, '--resume')):
        call('train.py', config, how, '--work-dir', work_dir, '--cfg-options', *(option.format(last) for option in options),
             expected=[f'Saving checkpoint at {last}', *(['resumed epoch'] if last == 2 else [])])
    checkpoint = work_dir / f'{unit}_2.pth'
    call('test.py', config, checkpoint, '--work-dir', work_dir, expected=['(test) [1/1]'])  # a detector finds nothing yet: no AP
    weights = load_weights_only(checkpoint, 'cpu')['state_dict']
    size = checkpoint.stat().st_size / 1e9
    return (f'| `{name}` | {sum(value.numel() for value in weights.values()) / 1e6:.1f}M | {size:.2f} GB | '
            f'{time.monotonic() - start:.0f} s |')


def load(config: Path, checkpoint: Path) -> nn.Module:
    """The model of a config, in evaluation, with all its weights from a checkpoint."""
    with quiet():
        model = build_model(Config.fromfile(config))
    model.load_state_dict(load_weights_only(checkpoint, 'cpu')['state_dict'])
    return model.eval()


def run_compacted(name: str, folder: Path) -> str:
    """Trains sparse for an iteration, compacts, exports. Returns a row of a table.

    Raises:
        RuntimeError: A tool fails.
    """
    cfg, start = small(name, folder), time.monotonic()
    cfg.custom_hooks = [dict(type='slak_mm.SparsityHook', granularity=dict(neuron=.4, filter=.3), init='uniform')]
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.backbone.layer_scale_init_value = 1.  # at the usual 1e-6 a block that is wrong would hardly show
    config, work_dir, compacted = folder / f'{name}.py', folder / name, folder / f'{name}_compact.pth'
    cfg.dump(config)
    unit, options = ending(cfg)
    call('train.py', config, '--from-scratch', '--work-dir', work_dir, '--cfg-options', *(option.format(1) for option in options))
    trained = work_dir / f'{unit}_1.pth'
    call('convert_checkpoint.py', trained, compacted, '--compact', '--config', config)
    part = ['--backbone'] if 'roi_head' in cfg.model else []  # after one iteration there are no detections that could differ
    exported = call('export.py', compacted.with_suffix('.py'), compacted, compacted.with_suffix('.onnx'), '--shape', 64, 96, *part)
    models = load(config, trained), load(compacted.with_suffix('.py'), compacted)
    parameters = [sum(parameter.numel() for parameter in model.parameters()) / 1e6 for model in models]
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    differences = []
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad(), DefaultScope.overwrite_default_scope(cfg.default_scope):
            pairs = zip(*(model.to(dtype).extract_feat(images.to(dtype)) for model in models))
        differences.append(max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs))
    return (f'| `{name}` | {parameters[0]:.1f}M -> {parameters[1]:.1f}M | {differences[0]:.1e} | {differences[1]:.1e} | '
            f'{exported.splitlines()[-1]} | {time.monotonic() - start:.0f} s |')


if __name__ == '__main__':
    compact = '--compact' in sys.argv
    parts = [part for part in sys.argv[1:] if part != '--compact']
    for case in COMPACTED if compact else NAMES:
        if not parts or any(part in case for part in parts):
            with tempfile.TemporaryDirectory() as scratch:
                sys.stdout.write(f'{(run_compacted if compact else run)(case, Path(scratch))}\n')
                sys.stdout.flush()
