"""What the tools share: arguments, and how a tool ends."""
import argparse
import ast
import os
import sys
import warnings
from typing import Callable, Optional, Sequence

warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine's, at every start
if not sys.warnoptions:  # python -W shows them
    for kind in (DeprecationWarning, FutureWarning):  # of libraries about each other: the user of a tool cannot fix them
        warnings.filterwarnings('ignore', category=kind, module=r'(?!slak_mm|__main__)')
    # OpenMMLab's have no category of their own
    warnings.filterwarnings('ignore', message=r'(?s).*\bdeprecated\b', module=r'mm(cv|det|engine|pretrain|seg)\b')

from mmengine.config import Config, DictAction  # noqa: E402

from slak_mm import checks  # noqa: E402
from slak_mm.errors import TRACEBACK, UserError, describe  # noqa: E402


class DictCalls(ast.NodeTransformer):
    """``dict(key=value)``, as configs are written, to ``{'key': value}``, which is a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args or any(key.arg is None for key in node.keywords):
            raise ValueError('of calls, only dict(key=value) is taken')
        return ast.Dict([ast.Constant(key.arg) for key in node.keywords], [key.value for key in node.keywords])


class CfgOptions(DictAction):
    """``DictAction`` that takes dicts too, and refuses what is not KEY=VALUE as argparse refuses anything else."""

    @staticmethod
    def _parse_iterable(val: str):
        if 'dict(' not in val and '{' not in val:
            return DictAction._parse_iterable(val)
        try:
            return ast.literal_eval(DictCalls().visit(ast.parse(val, mode='eval')).body)
        except SyntaxError as error:
            raise ValueError(f'{error.msg}') from error

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            parser.error(f'{option_string}: {" ".join(values)} is not KEY=VALUE ({error}), e.g. train_dataloader.batch_size=2')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options``; and, for a tool that has no such options, what else :func:`load_config` reads."""
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE',
                        help='settings of the config to override, e.g. train_dataloader.batch_size=2 a.b="[(1,2),(3,4)]"')
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)


def build_parser(description: str) -> argparse.ArgumentParser:
    """With the arguments of train.py and test.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; defaults to work_dirs/<name of the config>')
    parser.add_argument('--quiet', action='store_true',
                        help='no tables of the machine, the config and the hooks on the console; the log file has them')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config that the arguments name, with ``--cfg-options``."""
    return checks.load_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.local_rank)


def run(main: Callable[[Optional[Sequence[str]]], None], argv: Optional[Sequence[str]] = None) -> None:
    """Runs a tool; what it cannot use ends it with one line, not with a traceback (unless SLAK_MM_TRACEBACK is set)."""
    message = None
    try:
        main(argv)
    except (UserError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        message = describe(error)
    if message is not None:  # only here are the error, and the model in its frames, gone (leave_process_group)
        sys.exit(message)
