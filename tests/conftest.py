import shutil
import tempfile
import weakref
from pathlib import Path

import hypothesis
import pytest
import torch
import warm
from exported_files import cls, det, folder, seg, tool  # noqa: F401  (fixtures)
from micro_configs import MICRO
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from remembered import remember
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import slak_mm  # noqa: F401  (registers everything, and lets torchvision import beside a CPU torch)
from slak_mm.compat import load_weights_only

DATA = Path(__file__).parent / 'data'


class TorchRandom:
    """torch's random numbers, as hypothesis wants to have them: it seeds them before each example.

    Those of the CPU: ``torch.manual_seed`` writes down who called it, for a GPU that may come later, in a millisecond.
    """
    seed = staticmethod(torch.default_generator.manual_seed)
    getstate, setstate = staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps none itself
hypothesis.register_random(TORCH_RANDOM)
hypothesis.settings.register_profile('same', derandomize=True, database=None)
hypothesis.settings.load_profile('same')  # a test that fails, fails always


@pytest.fixture(scope='session', autouse=True)
def same_examples():
    """hypothesis also draws constants of the modules that are loaded, so that a derandomized test would depend on which tests the
    same process ran before it."""
    try:
        from hypothesis.internal.conjecture import providers
    except ImportError:  # a release that does not look at them
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, '_get_local_constants', providers.Constants)
        yield


@pytest.fixture(scope='session', autouse=True)
def runs_are_short():
    with pytest.MonkeyPatch.context() as patch:
        remember(patch.setattr)
        yield


@pytest.fixture(scope='session', autouse=True)
def nothing_is_sent():
    """OpenVINO and nncf send what they are used for, from a fork of the process, but not in CI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CI', 'true')
        yield


@pytest.fixture(scope='session', autouse=True)
def no_server_is_left():
    yield
    warm.stop()


class Iterators(weakref.WeakSet):
    """Of data loaders with workers. One that the garbage collector finds cannot end its workers, and waits 5 s for each: their queues
    are closed before it is asked to."""

    def close(self):
        for iterator in list(self):
            iterator._shutdown_workers()


@pytest.fixture(scope='session', autouse=True)
def loaders():
    started = Iterators()
    init = _MultiProcessingDataLoaderIter.__init__

    def start(self, loader):
        init(self, loader)
        started.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_MultiProcessingDataLoaderIter, '__init__', start)
        yield started


@pytest.fixture(autouse=True)
def no_leftovers(loaders):
    """The random numbers of a test do not depend on those before it. A Runner leaves its default scope behind, in which the next test
    would build, and its message hub, which a Runner of the next test takes for its own if it starts in the same second."""
    set_random_seed(0)
    yield
    loaders.close()
    DefaultScope._instance_dict.clear()
    MessageHub._instance_dict.clear()


@pytest.fixture
def work_dir():
    """For full models, whose checkpoints are a gigabyte: in memory where there is some, and gone at once."""
    memory = Path('/dev/shm')
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8e9
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as path:
        yield Path(path)


@pytest.fixture
def official() -> Path:
    """A micro SLaK in the authors' file format, sparse, every term non-trivial."""
    return DATA / 'slak_micro.pth'


@pytest.fixture
def expected() -> dict:
    """What the authors' code computes of it: ``input``, ``stage_outs``, ``logits``, ``logits_ema``."""
    return load_weights_only(DATA / 'slak_micro_io.pth', 'cpu')


@pytest.fixture
def micro() -> dict:
    """Arguments of the SLaK that fits it, for dense tasks."""
    return dict(MICRO)
