"""``torch.multiprocessing.spawn`` for tests, without starting Python anew for each process."""
import inspect
from pathlib import Path
from typing import Callable

import warm

FOLDER = Path(__file__).parent


def spawn(function: Callable[..., None], args: tuple, nprocs: int = 1) -> None:
    """Calls ``function(rank, *args)`` in ``nprocs`` processes, forked from one of ``warm``; fails if one of them does.

    Args:
        function (Callable): Of a module in tests/, at its top level.
        args (tuple): Of what ``repr`` can write.
        nprocs (int): Number of processes.
    """
    module = Path(inspect.getfile(function))
    code = f"""
import sys
sys.path[:0] = {[str(FOLDER), str(module.parent)]}
from torch.multiprocessing import start_processes
from {module.stem} import {function.__name__}
start_processes({function.__name__}, {args!r}, {nprocs}, start_method='fork')
"""
    result = warm.run('-c', code)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
