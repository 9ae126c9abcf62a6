"""Models of our configs in full size, on small images: each trains, is saved, resumed and tested by the tools.

    python tests/full_configs.py [PART_OF_A_NAME ...]

runs those of the heads that the paper has not, or all whose names have a part, and prints what docs/model_zoo.md says of them.
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List

import torch
from micro_configs import set_data, shrink_work
from mmengine.config import Config

from slak_mm.toy import LAYOUTS, ToySpec

ROOT = Path(__file__).parents[1]
NAMES = ['mask_rcnn_slak_t_1x_coco', 'mask_rcnn_slak_t_3x_coco', 'mask2former_slak_t_50e_coco', 'dino_slak_t_12e_coco',
         'rtmdet_slak_t_300e_coco', 'mask2former_slak_t_160k_ade20k', 'ham_slak_t_160k_ade20k']


def small(name: str, folder: Path) -> Config:
    """The config with its own model, on one batch of two toy images; it ends after one iteration."""
    cfg = shrink_work(Config.fromfile(ROOT / 'configs' / f'{name}.py'))
    if 'batch_augments' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.batch_augments = None  # Mask2Former's pads to 1024 pixels
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 30  # DINO takes so many points of the maps, and these are small
    roots = {layout: folder / layout for layout in LAYOUTS}
    set_data(cfg, roots)
    layout = next(layout for layout, root in roots.items() if cfg.val_dataloader.dataset.data_root == str(root))
    if not roots[layout].exists():
        LAYOUTS[layout](roots[layout], ToySpec(num_train=2, num_val=1, size=(64, 80)))
    return cfg


def run(name: str, folder: Path) -> str:
    """Trains for an iteration, resumes for another, tests. Returns a row of the table.

    Raises:
        RuntimeError: A tool fails, or does not say what it should.
    """
    cfg, start = small(name, folder), time.monotonic()
    config, work_dir = folder / f'{name}.py', folder / name
    cfg.dump(config)

    def call(tool: str, *args: object, expected: List[str]) -> None:
        command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / tool), *map(str, args), '--work-dir', str(work_dir)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        output = result.stdout + result.stderr
        if result.returncode or not all(part in output for part in expected):
            raise RuntimeError(f'{tool}: {output[-2000:]}')

    by_epoch = 'max_epochs' in cfg.train_cfg
    unit, limit = ('epoch', 'max_epochs') if by_epoch else ('iter', 'max_iters')
    options = [f'train_cfg.{limit}={{}}', f'default_hooks.checkpoint.by_epoch={by_epoch}', 'default_hooks.checkpoint.interval=1']
    if not by_epoch:
        options.append('train_cfg.val_interval={}')
    for last, how in ((1, '--from-scratch'), (2, '--resume')):
        call('train.py', config, how, '--cfg-options', *(option.format(last) for option in options),
             expected=[f'Saving checkpoint at {last}', *(['resumed epoch'] if last == 2 else [])])
    checkpoint = work_dir / f'{unit}_2.pth'
    call('test.py', config, checkpoint, expected=['(test) [1/1]'])  # a detector finds nothing yet, and reports no AP then
    weights = torch.load(checkpoint, weights_only=True, mmap=True)['state_dict']
    size = checkpoint.stat().st_size / 1e9
    return (f'| `{name}` | {sum(value.numel() for value in weights.values()) / 1e6:.1f}M | {size:.2f} GB | '
            f'{time.monotonic() - start:.0f} s |')


if __name__ == '__main__':
    for case in NAMES:
        if not sys.argv[1:] or any(part in case for part in sys.argv[1:]):
            with tempfile.TemporaryDirectory() as scratch:
                sys.stdout.write(f'{run(case, Path(scratch))}\n')
                sys.stdout.flush()
