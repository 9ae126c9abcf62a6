"""Studies on real data: dense or sparse, static or dynamic, small kernels or large.

Alone: micro SLaKs on scikit-learn's handwritten digits. Trains each variant from several seeds and writes a table (study.md), every
number (study.json) and a figure (study.png); --sweep varies how much and how often the masks adapt instead (the paper's figure 5).
A seed settles the split, the order of the data, the initial weights and the masks. The same command gives the same numbers on a CPU.

"study.py run STUDY" makes the runs of a larger study, on photos; "study.py speed" measures what the zeros of its classifiers save on
this machine, "study.py masks" where their kernels have weights; "study.py report" makes tables and figures of the results.
"""
import argparse
import json
from pathlib import Path

import common
import matplotlib
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track

matplotlib.use('Agg')
from slak_mm.analysis.benchmarks import machine  # noqa: E402
from slak_mm.analysis.studies import digits, digits_report, distance, distillation, photos, profiles, report, speed, transfer  # noqa: E402
from slak_mm.analysis.studies.execute import Executor, Pace  # noqa: E402
from slak_mm.errors import InputError  # noqa: E402

TOOLS = Path(__file__).resolve().parent
RESULTS = TOOLS.parent / 'docs/study'
STUDIES = (photos.STUDY, distance.STUDY, transfer.STUDY, distillation.STUDY)


def parse_args(argv=None) -> argparse.Namespace:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.set_defaults(do=study_digits)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/study'), help='folder for study.md, study.json, study.png')
    parser.add_argument('--sweep', action='store_true', help='the rate and the interval of adaptation instead, with 51 kernels')
    parser.add_argument('--seeds', type=int, default=8, help='number of seeds, at least 2')
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--sparsity', type=float, default=0.8, help='of the sparse models with 51 kernels; that of the others follows')
    parser.add_argument('--train-images', type=int, default=300)
    parser.add_argument('--test-images', type=int, help='all that are left, unless given')
    parser.add_argument('--image-size', type=int, default=64)
    parser.add_argument('--channels', type=int, nargs=4, default=(8, 16, 32, 64))
    parser.add_argument('--threads', type=int, default=1)
    commands = parser.add_subparsers(metavar='')
    run = commands.add_parser('run', help='make the runs of a study on photos', formatter_class=style)
    run.set_defaults(do=run_study)
    run.add_argument('study', choices=STUDIES)
    run.add_argument('--data', type=Path, default=Path('data/clothing'), help='photos as CLASS/FILE or SPLIT/CLASS/FILE')
    run.add_argument('--camvid', type=Path, help='transfer: folder with img/ and ann/; without this task, unless given')
    run.add_argument('--bccd', type=Path, help='transfer: folder with JPEGImages/, Annotations/, ImageSets/; without, unless given')
    run.add_argument('--jobs', type=int, default=1, help='runs at a time, each a program of its own')
    run.add_argument('--threads', type=int, help="of each run; the CPUs' number, divided by that of the jobs, unless given")
    run.add_argument('--seeds', type=int, help='the first so many seeds (folds, of photos) only')
    run.add_argument('--only', metavar='TEXT', action='append', help='only variants with this text in their name; may be repeated')
    run.add_argument('--channels', type=int, nargs=4, default=photos.CHANNELS, help='of the stages: more for a larger machine')
    run.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help='folder for configs, logs, checkpoints')
    run.add_argument('--results', type=Path, help='JSON lines; what is in it is not run again; by default STUDY.jsonl in the work dir')
    run.add_argument('--amp', action='store_true', help='as of train.py and test.py')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as of train.py and test.py')
    speeds = commands.add_parser('speed', help='inference of the classifiers of a study on photos', formatter_class=style)
    speeds.set_defaults(do=measure_speeds)
    speeds.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help='of "study.py run classification"')
    speeds.add_argument('--fold', type=int, default=0, help='whose classifiers')
    speeds.add_argument('--repeats', type=int, default=25, help='samples of each')
    speeds.add_argument('--threads', type=int, default=1)
    speeds.add_argument('--out', type=Path, default=Path('work_dirs/studies/speed.json'), help='file to write')
    masks = commands.add_parser('masks', help='where the kernels of those classifiers are not zero', formatter_class=style)
    masks.set_defaults(do=measure_masks)
    masks.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help='of "study.py run classification"')
    masks.add_argument('--out', type=Path, default=Path('work_dirs/studies/masks.json'), help='file to write')
    tables = commands.add_parser('report', help='make tables and figures of results', formatter_class=style)
    tables.set_defaults(do=report_studies)
    tables.add_argument('results', type=Path, nargs='?', default=RESULTS, help='folder of STUDY.jsonl files')
    tables.add_argument('--out', type=Path, default=Path('work_dirs/studies/report'), help='folder for them')
    return parser.parse_args(argv)


def study_digits(args):
    torch.set_num_threads(args.threads)
    settings = digits.Settings(digits.nonzero_for(args.sparsity, args.image_size, args.channels), args.epochs, args.train_images,
                               args.test_images, args.image_size, args.channels)
    name, variants = ('sweep', digits.SWEEP) if args.sweep else ('study', digits.VARIANTS)
    runs = [dict(variant=variant.name, seed=seed, **digits.train(variant, seed, settings))
            for seed, variant in track([(seed, variant) for seed in range(args.seeds) for variant in variants], 'training')]
    rows = digits.summarize_sweep(runs) if args.sweep else digits.summarize(runs)
    markdown = digits_report.sweep_table(rows) if args.sweep else digits_report.table(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    written = {name: value for name, value in vars(args).items() if name not in ('do', 'out', 'sweep')}
    result = dict(settings=dict(written, nonzero=settings.nonzero), torch=torch.__version__, summary=rows, runs=runs)
    (args.out / f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (args.out / f'{name}.md').write_text(markdown)
    if args.sweep:
        digits_report.draw_sweep(rows, args.out / 'sweep.png')
    else:
        digits_report.draw(runs, rows, args.out / 'study.png')
    print(f'{markdown}\n{args.out}/{name}.md, {name}.json, {name}.png')


def plan(args):
    on_folds = {photos.STUDY: photos.plan, distillation.STUDY: distillation.plan}
    seeds = {} if args.seeds is None else {'folds' if args.study in on_folds else 'seeds': args.seeds}
    if args.study in on_folds:
        runs = on_folds[args.study](args.data, args.work_dir, channels=args.channels, **seeds)
    elif args.study == distance.STUDY:
        runs = distance.plan(channels=args.channels, **seeds)
    elif args.camvid is None and args.bccd is None:
        raise InputError('transfer needs data: give --camvid FOLDER, --bccd FOLDER, or both.')
    else:
        runs = transfer.plan(args.camvid, args.bccd, channels=args.channels, **seeds)
    names = '; '.join(sorted({run.variant for run in runs}))
    chosen = [run for run in runs if not args.only or any(text in run.variant for text in args.only)]
    if not chosen:
        raise InputError(f'--only {" ".join(args.only)} leaves no variant. There are: {names}')
    return chosen


def run_study(args):
    runs = plan(args)
    results = args.results or args.work_dir / f'{args.study}.jsonl'
    options = ['--amp'] * args.amp + (['--cfg-options', *args.cfg_options] if args.cfg_options else [])
    executor = Executor(TOOLS, args.work_dir, results, args.jobs, options, args.threads, report.measurement(args.study))
    pending = executor.pending(runs)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f'{args.study}: {len(pending)} of {len(runs)} runs to make, {args.jobs} at a time; results go to {results}, '
                  f'logs to {args.work_dir / args.study}')
    pace = Pace(len(pending))
    columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[note]}'), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(args.study, total=len(pending), note='')

        def report_progress(run, progress):
            pace.update(run, progress)
            bar.update(task, completed=pace.done, note=pace.describe())

        def report_end(run, result):
            pace.end(run)
            console.print(f'{run.variant}, seed {run.seed}: {run.metric} {result[run.metric]:.4g}, {result["seconds"]} s; '
                          f'{pace.describe()}')

        def report_failure(run, error):
            console.print(f'{run.variant}, seed {run.seed}: {error}')

        executor.run(runs, report_progress, report_end, report_failure)
    console.print(f'all {len(runs)} results are in {results}')


def measure_speeds(args):
    torch.set_num_threads(args.threads)
    found = speed.measure_speeds(args.work_dir, args.fold, repeats=args.repeats)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(dict(machine=machine(cuda=False), threads=args.threads, variants=found), indent=1) + '\n')
    for variant, result in found.items():
        print(f'{variant}: {result["speedup"]:.2f} times as fast as dense, {result["parameters"]:,} parameters')
    print(args.out)


def measure_masks(args):
    found = profiles.measure_profiles(args.work_dir)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found) + '\n')
    print(args.out)


def report_studies(args):
    found = [args.results / f'{study}.jsonl' for study in STUDIES if (args.results / f'{study}.jsonl').exists()]
    if not found:
        raise InputError(f'{args.results} has none of {", ".join(f"{study}.jsonl" for study in STUDIES)}: "study.py run" makes them.')
    args.out.mkdir(parents=True, exist_ok=True)
    for path in found:
        markdown, figures = report.write(path, args.out)
        print(f'{markdown}\n{", ".join(map(str, figures))}\n')


def main(argv=None):
    args = parse_args(argv)
    args.do(args)


if __name__ == '__main__':
    common.run(main)
