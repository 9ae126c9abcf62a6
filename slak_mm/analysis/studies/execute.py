"""Runs what a study plans, one program for each run, and keeps the results in a file of JSON lines."""
import json
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.runner import load_checkpoint

from ...checkpoints import load_file, select_state_dict
from ...errors import InputError, UserError
from ...models.build import build_model, quiet
from ...registry import enter_scope
from ...toy.demo import Progress, run_logged
from .plan import Run, Trained

BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')


def read_results(path: Path) -> List[Dict[str, Any]]:
    """The results in a file. A last line that was cut off, as by a kill, does not count, and is removed.

    Raises:
        UserError: Another line is no JSON.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding='utf-8')
    whole = text[:text.rfind('\n') + 1]
    if whole != text:
        path.write_text(whole, encoding='utf-8')
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise UserError(f'{path} has a line that is no JSON: {error}. Remove that line; its run is then made again.') from error


def load_classifier(config: Path, checkpoint: str) -> Tuple[Config, Any]:
    """The config of a run, whose scope is the default one from then on, and its trained model."""
    cfg = Config.fromfile(config)
    enter_scope(cfg)
    with quiet():
        model = build_model(cfg)
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    return cfg, model


def count_weights(checkpoint: str) -> Dict[str, int]:
    """Number of parameters in a checkpoint, and of those that are not zero."""
    weights = [value for name, value in select_state_dict(load_file(checkpoint)).items() if not name.endswith(BUFFERS)]
    return dict(parameters=sum(value.numel() for value in weights), nonzero=sum(int(value.count_nonzero()) for value in weights))


def pack(right: Sequence[bool]) -> str:
    """Which samples are right as hexadecimal digits, the first sample the first bit, and their number: ``'b0/4'`` of 1011."""
    digits = -(-len(right) // 4)
    bits = ''.join(str(int(one)) for one in right).ljust(4 * digits, '0')
    return f'{int(bits, 2):0{digits}x}/{len(right)}'


def unpack(packed: str) -> List[bool]:
    """The inverse of :func:`pack`."""
    digits, _, count = packed.partition('/')
    return [bit == '1' for digit in digits for bit in f'{int(digit, 16):04b}'][:int(count)]


def run_folder(work_dir: Path, study: str, variant: str, seed: int) -> Path:
    """Where a run keeps its config, log and checkpoints."""
    return work_dir / study / f'{"".join(c if c.isalnum() else "_" for c in variant)}_{seed}'


def has_ended(folder: Path) -> bool:
    """Whether a run was trained to its end: its test has begun. An interrupted one has checkpoints, too."""
    return (folder / 'test').exists()


def trained(work_dir: Path, study: str, variant: str, seed: int) -> str:
    """The checkpoint of a run that has ended.

    Raises:
        InputError: It has not.
    """
    folder = run_folder(work_dir, study, variant, seed)
    if not has_ended(folder):
        raise InputError(f'{variant!r}, fold {seed}, is not trained in {work_dir}, or not to its end: run "study.py run {study}" '
                         'first, with the same --work-dir. Where its results have that run, but its checkpoint is gone: with another '
                         '--results, too.')
    return (folder / 'last_checkpoint').read_text()


def commit() -> str:
    """Of this project, with a plus if files differ from it; '' outside a repository."""
    found = subprocess.run(['git', 'describe', '--always', '--dirty=+', '--abbrev=9', '--exclude=*'], cwd=Path(__file__).parent,
                           capture_output=True, text=True)
    return found.stdout.strip()


class Executor:
    """Makes runs, several at a time.

    Args:
        tools (Path): Folder of ``train.py``; ``configs/`` is next to it.
        work_dir (Path): Each run has a folder there, with its config, its log and its checkpoint.
        results (Path): JSON lines, one for each run that has ended. What they hold is not run again.
        jobs (int): Runs at a time. Defaults to 1.
        options (Sequence[str]): More options of ``train.py`` and ``test.py``. Defaults to ().
        threads (int, optional): Of each run. Defaults to None: the CPUs' number, divided by that of the jobs.
        measure (Callable): From the config and the checkpoint of a run to more entries of its result. Defaults to none.
    """

    def __init__(self, tools: Path, work_dir: Path, results: Path, jobs: int = 1, options: Sequence[str] = (),
                 threads: Optional[int] = None, measure: Callable[[Path, str], Dict[str, Any]] = lambda config, checkpoint: {}):
        self.tools, self.work_dir, self.results, self.jobs, self.options = tools, work_dir, results, jobs, list(options)
        self.threads = threads or max(1, (os.cpu_count() or 1) // jobs)
        self.measure, self.commit, self._lock = measure, commit(), Lock()

    def pending(self, runs: Sequence[Run]) -> List[Run]:
        """Those runs that have no result yet.

        Raises:
            UserError: A result is of other settings.
            InputError: A run that has no result yet starts from the checkpoint of one that is not trained.
        """
        known = {(entry['study'], entry['variant'], entry['seed']): entry for entry in read_results(self.results)}
        for run in runs:
            entry = known.get(run.key)
            if entry is not None and (entry['settings'], entry['options']) != (run.settings, self.options):
                raise UserError(f'{self.results} has a result of {run.variant!r}, seed {run.seed}, that was made with other settings. '
                                'Give another --results, or the options that it was made with.')
        pending = [run for run in runs if run.key not in known]
        for needed in (needed for run in pending for needed in run.needs):
            self._find(needed)
        return pending

    def _find(self, run: Trained) -> str:
        return trained(self.work_dir, *run)

    def run(self, runs: Sequence[Run], report: Callable[[Run, Progress], None],
            ended: Callable[[Run, Dict[str, Any]], None] = lambda run, result: None,
            failed: Callable[[Run, str], None] = lambda run, error: None) -> None:
        """Makes the runs that have no result yet; one that was begun goes on from its newest checkpoint.

        Args:
            runs (Sequence[Run]): All of the study.
            report (Callable): Gets the progress of each run.
            ended (Callable): Gets each result.
            failed (Callable): Gets the message of each run that fails; the others go on.

        Raises:
            UserError: Runs failed.
        """
        faults: List[str] = []
        self.results.parent.mkdir(parents=True, exist_ok=True)

        def attempt(run: Run) -> None:
            try:
                result = self._run(run, lambda progress: report(run, progress))
            except Exception as error:  # of whatever kind: the pool would keep it until all the other runs have ended
                faults.append(str(error) if isinstance(error, UserError) else traceback.format_exc())
                failed(run, faults[-1])
                return
            with self._lock:
                with self.results.open('a', encoding='utf-8') as file:
                    file.write(json.dumps(result) + '\n')
                ended(run, result)

        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(attempt, self.pending(runs)))
        if faults:
            raise UserError(f'{len(faults)} runs failed; the same command tries them again.')

    def _run(self, run: Run, report: Callable[[Progress], None]) -> Dict[str, Any]:
        folder = run_folder(self.work_dir, *run.key)
        config, last = folder / 'config.py', folder / 'last_checkpoint'
        run.write(config, self.tools.parent.absolute() / 'configs', self._find)
        with self._lock:  # mmengine's configs are not made for threads
            epochs = Config.fromfile(config).train_cfg.get('max_epochs') or 1
        environment = dict(OMP_NUM_THREADS=str(self.threads))

        def call(tool: str, *args: str) -> None:
            run_logged([sys.executable, '-W', 'ignore', str(self.tools / tool), str(config), *args, *self.options], folder / 'run.log',
                       epochs, report, **environment)

        start = time.monotonic()
        call('train.py', '--work-dir', str(folder), *['--resume'] * last.exists())
        checkpoint, predictions = last.read_text(), folder / 'predictions.pkl'
        call('test.py', checkpoint, '--work-dir', str(folder / 'test'), *['--out', str(predictions)] * run.classifies)
        seconds = round(time.monotonic() - start)
        metrics = json.loads(max(folder.glob('test/*/*.json'), key=lambda path: path.stat().st_mtime).read_text())
        result: Dict[str, Any] = dict(study=run.study, variant=run.variant, seed=run.seed, **{run.metric: metrics[run.metric]})
        if run.classifies:
            result['right'] = pack([int(sample['pred_score'].argmax()) == int(sample['gt_label']) for sample in load(predictions)])
        with self._lock:
            measured = self.measure(config, checkpoint)
        return dict(result, **count_weights(checkpoint), **measured, seconds=seconds, settings=run.settings, options=self.options,
                    commit=self.commit, torch=torch.__version__)


class Pace:
    """How much of several runs is done, and how long the rest will take.

    Args:
        total (int): Number of runs.
    """

    def __init__(self, total: int):
        self.total, self.start, self._shares = total, time.monotonic(), {}  # type: int, float, Dict[Any, float]

    def update(self, run: Run, progress: Progress) -> None:
        """A run has got on. The lines of its test, which is short, do not count."""
        if progress.loss is not None:
            self._shares[run.key] = max(progress.done / progress.total, self._shares.get(run.key, 0.))

    def end(self, run: Run) -> None:
        """A run has ended."""
        self._shares[run.key] = 1.

    @property
    def done(self) -> float:
        """Runs done, with the shares of those under way."""
        return sum(self._shares.values())

    def describe(self) -> str:
        """As ``'3.2/50, about 41 min left'``."""
        left = '' if not self.done else f', about {(time.monotonic() - self.start) * (self.total / self.done - 1) / 60:.0f} min left'
        return f'{self.done:.1f}/{self.total}{left}'
