"""A run that did its work ends with exit code 0: no thread of a process group is left when the interpreter ends."""
import subprocess
import sys

import pytest

CASES = [(kind, end) for kind in ('DDP', 'FSDP') for end in ('return', 'error')]
SCRIPT = f"""
import atexit, glob, os
import torch
from mmengine.config import Config
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from slak_mm.training.distributed import prepare_cpu_launch

def gloo_threads():
    return sum('gloo' in open(path).read() for path in glob.glob('/proc/self/task/*/comm'))

def train(kind, end):
    prepare_cpu_launch(Config(dict(launcher='pytorch')))
    wrap = dict(DDP=DistributedDataParallel, FSDP=lambda model: FullyShardedDataParallel(model, device_id=torch.device('cpu')))[kind]
    model = wrap(torch.nn.Linear(3, 3))
    model.__dict__['itself'] = model  # only the garbage collector can free it
    model(torch.randn(2, 3)).sum().backward()
    if end == 'error':
        raise ValueError(gloo_threads())
    print(kind, end, gloo_threads(), flush=True)

os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK='0', LOCAL_RANK='0', WORLD_SIZE='1')
for case in {CASES}:
    child = os.fork()
    if not child:
        atexit.register(lambda: print(*case, 'left', gloo_threads(), flush=True))
        train(*case)
        break
    print(*case, 'exit code', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_no_thread_of_a_process_group_outlives_the_run():
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', SCRIPT], capture_output=True, text=True)
    printed = result.stdout.splitlines()
    for kind, end in CASES:
        assert f'{kind} {end} left 0' in printed, result.stdout + result.stderr
        assert f'{kind} {end} exit code {int(end == "error")}' in printed
    during = [int(line.rpartition(' ')[2]) for line in printed if 'return' in line and 'left' not in line and 'exit' not in line]
    assert len(during) == 2 and all(during)  # that there are such threads, by that name
