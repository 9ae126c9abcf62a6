"""From nothing to a result: writes toy data, tests an untrained micro SLaK, trains it, tests it again, paints what it sees."""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import common  # noqa: F401
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

TOOLS = Path(__file__).resolve().parent
# task: layout of the toy data, config, metrics to report and what test.py calls them
TASKS = dict(
    seg=('ade20k', 'upernet_slak_micro_toy_ade20k.py', {'mIoU': 'mIoU'}),
    det=('coco', 'cascade_mask_rcnn_slak_micro_toy_coco.py',
         {'box AP50': 'coco/bbox_mAP_50', 'mask AP50': 'coco/segm_mAP_50'}),
)
SCENES = ('--num-train', '240', '--num-val', '32', '--size', '192', '240', '--force')


def call(tool: str, *args) -> None:
    """Runs a tool as a user would, and shows the command."""
    print(f'\n$ python tools/{tool} {" ".join(map(str, args))}', flush=True)
    subprocess.run([sys.executable, '-W', 'ignore', str(TOOLS / tool), *map(str, args)], check=True)


def save_untrained(config: Path, work_dir: Path) -> Path:
    cfg = Config.fromfile(config)
    cfg.work_dir = str(work_dir)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    runner.save_checkpoint(str(work_dir), 'untrained.pth', save_optimizer=False, save_param_scheduler=False)
    return work_dir / 'untrained.pth'


def test(config: Path, checkpoint: Path, work_dir: Path, *args) -> dict:
    call('test.py', config, checkpoint, '--work-dir', work_dir, *args)
    return json.loads(max(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())


def paint_overview(show_dir: Path, target: Path, columns: int = 2, rows: int = 4) -> None:
    """Lays some overlays (each: truth, prediction) side by side."""
    tiles = [Image.open(path) for path in sorted(show_dir.rglob('*.*g'))[:columns * rows]]
    width, height = tiles[0].size
    sheet = Image.new('RGB', (columns * (width + 8) - 8, rows * (height + 8) - 8), 'white')
    for i, tile in enumerate(tiles):
        sheet.paste(tile, ((i % columns) * (width + 8), (i // columns) * (height + 8)))
    sheet.save(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=TASKS, default='seg')
    parser.add_argument('--work-dir', type=Path, help='defaults to work_dirs/demo_<task>')
    args = parser.parse_args()
    layout, config, metrics = TASKS[args.task]
    config = TOOLS.parent / 'configs' / config
    work_dir = args.work_dir or Path('work_dirs') / f'demo_{args.task}'

    call('make_toy_data.py', layout, f'data/toy_{layout}', *SCENES)
    untrained = test(config, save_untrained(config, work_dir / 'untrained'), work_dir / 'untrained')
    call('train.py', config, '--work-dir', work_dir)
    checkpoint = Path((work_dir / 'last_checkpoint').read_text())
    trained = test(config, checkpoint, work_dir / 'test', '--show-dir', work_dir / 'overlays')
    paint_overview(work_dir / 'overlays', work_dir / 'overview.png')

    print()
    for metric, key in metrics.items():
        # mmdet reports nothing when nothing at all is detected
        print(f'{metric} on held-out images: untrained {untrained.get(key, 0):.3g}, trained {trained.get(key, 0):.3g}')
    print(f'checkpoint: {checkpoint}\noverlays (truth left, prediction right): {work_dir / "overlays"}\n'
          f'at a glance: {work_dir / "overview.png"}')


if __name__ == '__main__':
    main()
