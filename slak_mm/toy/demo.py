"""What ``tools/demo.py`` does: runs tools as a user would, reads from their logs how far they are, and lays out pictures."""
import json
import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Callable, Deque, Dict, NamedTuple, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed
from PIL import Image

from ..errors import UserError
from ..models.build import build_model, quiet

TAIL, WIDTH = 12, 300  # lines of a failed program's output that are shown, and their length
# Iter(train) [ 20/600], Epoch(train)  [3][20/30] or Iter(test) [20/32] of mmengine's log, and the loss in the same line
_PROGRESS = re.compile(r'(?:Iter|Epoch)\((?:train|test)\)\s*(?:\[\s*(?P<epoch>\d+)\])?\[\s*(?P<done>\d+)/(?P<of>\d+)\]'
                       r'(?:.*\bloss: (?P<loss>[\d.]+))?')


class Task(NamedTuple):
    """A demo: layout of its data, config, the metrics to report by what test.py calls them, and what the model learns."""
    layout: str
    config: str
    metrics: Dict[str, str]
    lesson: str


_MIOU, _BOXES = {'mIoU': 'mIoU'}, {'coco/bbox_mAP_50': 'box AP50'}
_MASKS = dict(_BOXES, **{'coco/segm_mAP_50': 'mask AP50'})
_SEGMENT, _DETECT = 'segment toy scenes', 'detect objects in toy scenes'
TASKS = dict(
    seg=Task('ade20k', 'upernet_slak_micro_toy_ade20k.py', _MIOU, _SEGMENT),
    det=Task('coco', 'cascade_mask_rcnn_slak_micro_toy_coco.py', _MASKS, _DETECT),
    ham=Task('ade20k', 'toy/ham_slak_micro_toy_ade20k.py', _MIOU, _SEGMENT),
    mask2former_seg=Task('ade20k', 'toy/mask2former_slak_micro_toy_ade20k.py', _MIOU, _SEGMENT),
    faster_rcnn=Task('voc07', 'toy/faster_rcnn_slak_micro_toy_voc07.py', {'pascal_voc/mAP': 'VOC mAP'}, _DETECT),
    mask_rcnn=Task('coco', 'toy/mask_rcnn_slak_micro_toy_coco.py', _MASKS, _DETECT),
    mask2former=Task('coco', 'toy/mask2former_slak_micro_toy_coco.py', _MASKS, _DETECT),
    dino=Task('coco', 'toy/dino_slak_micro_toy_coco.py', _BOXES, _DETECT),
    rtmdet=Task('coco', 'toy/rtmdet_slak_micro_toy_coco.py', _BOXES, _DETECT),
)


class Progress(NamedTuple):
    """How far a program is: iterations done, of how many, and the last loss, if it trains."""
    done: int
    total: int
    loss: Optional[float] = None


def read_progress(line: str, epochs: int = 1) -> Optional[Progress]:
    """The progress that a line of mmengine's log tells, or None.

    Args:
        line (str): Of the log.
        epochs (int): Of the whole training; the line has the number of iterations of one. Defaults to 1.
    """
    match = _PROGRESS.search(line)
    if match is None:
        return None
    of, before = int(match['of']), 0
    if match['epoch']:
        before, total = (int(match['epoch']) - 1) * of, epochs * of
    else:
        total = of
    return Progress(before + int(match['done']), total, float(match['loss']) if match['loss'] else None)


def run_logged(command: Sequence[str], log: Path, epochs: int = 1, report: Callable[[Progress], None] = lambda progress: None,
               **environment: str) -> None:
    """Runs a program, and appends the command and all that it prints to a file.

    Args:
        command (Sequence[str]): Program and arguments.
        log (Path): The file.
        epochs (int): See :func:`read_progress`.
        report (Callable): Gets each :class:`Progress` that the program prints.
        environment (str): Variables of its environment, besides those of this one.

    Raises:
        UserError: It fails; the message has its last lines and the file.
    """
    tail: Deque[str] = deque(maxlen=TAIL)
    with log.open('a', encoding='utf-8') as file:
        file.write(f'\n$ {" ".join(command)}\n')
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace',
                              env=dict(os.environ, PYTHONUNBUFFERED='1', **environment)) as process:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                tail.append(line[:WIDTH])
                progress = read_progress(line, epochs)
                if progress is not None:
                    report(progress)
    if process.returncode != 0:
        lines = '\n'.join(line.rstrip() for line in tail)
        raise UserError(f'{" ".join(command)} failed with code {process.returncode}. Its last lines:\n{lines}\n'
                        f'All of its output is in {log}')


class Demo:
    """The steps of a demo, in order.

    Args:
        task (Task): One of :data:`TASKS`.
        tools (Path): Folder of the tools; configs/ is next to it.
        work_dir (Path): Folder for all that is written but the data, which go to ``data/toy_<layout>``.
        scenes (Sequence[str]): Options of ``make_toy_data.py``.
        options (Sequence[str]): ``--cfg-options`` of train.py and test.py. Defaults to ().

    Attributes:
        log (Path): File with all that the tools print.
        checkpoint (Path): Of the trained model, once it is.
    """

    SCENES = ('--num-train', '240', '--num-val', '32', '--size', '192', '240')

    def __init__(self, task: Task, tools: Path, work_dir: Path, scenes: Sequence[str] = SCENES, options: Sequence[str] = ()):
        self.task, self.work_dir = task, work_dir
        self.config = tools.parent / 'configs' / task.config
        self._cfg = Config.fromfile(self.config)
        self.log, self.overlays, self.overview = work_dir / 'demo.log', work_dir / 'overlays', work_dir / 'overview.png'
        self.checkpoint: Optional[Path] = None
        self._tools, self._scenes = tools, list(scenes)
        self._options = ['--cfg-options', *options] if options else []
        work_dir.mkdir(parents=True, exist_ok=True)
        self.log.write_text('')

    def _call(self, report: Callable[[Progress], None], tool: str, *args: object) -> None:
        command = [sys.executable, '-W', 'ignore', str(self._tools / tool), *map(str, args)]
        run_logged(command, self.log, self._cfg.train_cfg.get('max_epochs', 1), report)

    def write_data(self, report: Callable[[Progress], None]) -> None:
        """Writes the toy scenes."""
        self._call(report, 'make_toy_data.py', self.task.layout, f'data/toy_{self.task.layout}', *self._scenes, '--force')

    def save_untrained(self, report: Callable[[Progress], None]) -> None:
        """Saves the model at its initial weights."""
        set_random_seed(self._cfg.randomness.seed)
        with quiet():
            model = build_model(self._cfg)
            model.init_weights()
        torch.save(dict(meta={}, state_dict=model.state_dict()), self.work_dir / 'untrained.pth')

    def test_untrained(self, report: Callable[[Progress], None]) -> Dict[str, float]:
        """Returns the metrics of the initial weights."""
        return self._test(report, self.work_dir / 'untrained.pth', self.work_dir / 'untrained')

    def train(self, report: Callable[[Progress], None]) -> None:
        """Trains, and finds the last checkpoint."""
        self._call(report, 'train.py', self.config, '--work-dir', self.work_dir, *self._options)
        self.checkpoint = Path((self.work_dir / 'last_checkpoint').read_text())

    def test_trained(self, report: Callable[[Progress], None]) -> Dict[str, float]:
        """Returns the metrics of the trained weights, and paints what they predict."""
        return self._test(report, self.checkpoint, self.work_dir / 'test', '--show-dir', self.overlays)

    def paint(self, report: Callable[[Progress], None]) -> None:
        """Lays some of the pictures out as one."""
        paint_overview(self.overlays, self.overview)

    def _test(self, report: Callable[[Progress], None], checkpoint: Optional[Path], work_dir: Path, *args: object) -> Dict[str, float]:
        self._call(report, 'test.py', self.config, checkpoint, '--work-dir', work_dir, *args, *self._options)
        metrics = json.loads(max(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime).read_text())
        # mmdet reports nothing when nothing at all is detected
        return {name: metrics.get(key, 0.) for key, name in self.task.metrics.items()}


def paint_overview(show_dir: Path, target: Path, columns: int = 2, rows: int = 4) -> None:
    """Lays the first pictures of a folder out in a grid; each is truth and prediction, side by side.

    Args:
        show_dir (Path): Folder, with or without folders in it.
        target (Path): Picture to write.
        columns, rows (int): Of the grid. Default to 2 and 4.
    """
    tiles = [Image.open(path) for path in sorted(show_dir.rglob('*.*g'))[:columns * rows]]
    width, height = tiles[0].size
    sheet = Image.new('RGB', (columns * (width + 8) - 8, rows * (height + 8) - 8), 'white')
    for i, tile in enumerate(tiles):
        sheet.paste(tile, ((i % columns) * (width + 8), (i // columns) * (height + 8)))
    sheet.save(target)
