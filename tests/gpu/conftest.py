"""Tests of what needs an NVIDIA GPU: skipped without one.

On a machine with one:   python -m pytest tests/gpu -n 8
Without, to see that nothing fails for another reason, as small as can be (Triton in its interpreter):
    SLAK_MM_TEST_DEVICE=cpu TRITON_INTERPRET=1 python -m pytest tests/gpu
"""
import os
from pathlib import Path

import pytest
import torch

DEVICE = 'cuda' if torch.cuda.is_available() else os.environ.get('SLAK_MM_TEST_DEVICE')


def pytest_collection_modifyitems(items):
    if DEVICE is None:
        for item in items:
            if Path(__file__).parent in Path(item.fspath).parents:
                item.add_marker(pytest.mark.skip(reason='no NVIDIA GPU'))


@pytest.fixture(scope='session')
def device():
    return DEVICE


@pytest.fixture(scope='session')
def small(device):
    """Whether all is to be as small as can be."""
    return device == 'cpu'
