"""From nothing to a result: writes toy data, tests an untrained micro SLaK, trains it, tests it again, paints what it sees."""
import argparse
import os
import time
from pathlib import Path

import common
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slak_mm.toy import demo

TOOLS = Path(__file__).resolve().parent
LINES = 5  # of the progress of a step, where it is printed line by line


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=demo.TASKS, default='seg')
    parser.add_argument('--work-dir', type=Path, help='defaults to work_dirs/demo_<task>')
    return parser.parse_args(argv)


def describe(progress: demo.Progress) -> str:
    return f'{progress.done}/{progress.total}' + ('' if progress.loss is None else f', loss {progress.loss:.2f}')


def run_step(console: Console, title: str, step):
    """Runs a step and returns its result; shows a bar on a terminal, and else a few lines."""
    start = time.monotonic()
    if console.is_terminal:
        columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[note]}'), TimeElapsedColumn(), \
            TextColumn('left:'), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None, note='')
            result = step(lambda progress: bar.update(task, completed=progress.done, total=progress.total, note=describe(progress)))
    else:
        console.print(title)
        printed = 0

        def report(progress: demo.Progress) -> None:
            nonlocal printed
            seconds = time.monotonic() - start
            if progress.done * LINES // progress.total > printed and progress.done < progress.total and seconds > 10:
                printed = progress.done * LINES // progress.total
                left = seconds * (progress.total / progress.done - 1)
                console.print(f'    {describe(progress)}, about {left:.0f} s left')

        result = step(report)
    console.print(f'{title if console.is_terminal else "   "} done in {time.monotonic() - start:.0f} s')
    return result


def main(argv=None):
    args = parse_args(argv)
    task = demo.TASKS[args.task]
    work_dir = args.work_dir or Path('work_dirs') / f'demo_{args.task}'
    job = demo.Demo(task, TOOLS, work_dir)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f'A micro SLaK learns to {task.lesson} (configs/{task.config}).\nAll that the tools print goes to {job.log}')
    steps = {
        f'write toy scenes to data/toy_{task.layout}': job.write_data,
        'save a model at random weights': job.save_untrained,
        'test it on held-out scenes': job.test_untrained,
        'train': job.train,
        'test the trained model, paint what it predicts': job.test_trained,
        'lay some of the pictures out': job.paint,
    }
    results = [run_step(console, f'{i}/{len(steps)} {title}', step)
               for i, (title, step) in enumerate(steps.items(), 1)]
    table = Table('on held-out scenes', 'untrained', 'trained')
    for metric, untrained in results[2].items():
        table.add_row(metric, f'{untrained:.3g}', f'{results[4][metric]:.3g}')
    console.print(table)
    console.print(f'checkpoint: {os.path.relpath(job.checkpoint)}\noverlays (truth left, prediction right): {job.overlays}\n'
                  f'at a glance: {job.overview}')


if __name__ == '__main__':
    common.run(main)
