"""Marks for tests of what older versions lack; tests/versions.sh runs the tests with those."""
import importlib.metadata

import pytest
import torch
from mmengine.utils import digit_version


def needs_torch(version: str):
    """``@needs_torch('2.0')``, or ``marks=`` of a ``pytest.param``."""
    return pytest.mark.skipif(digit_version(torch.__version__) < digit_version(version), reason=f'torch < {version}')


FORKS = any(dist.metadata['Name'] == 'onedl-mmengine' for dist in importlib.metadata.distributions())
needs_releases = pytest.mark.skipif(FORKS, reason="the forks' own tools do not find the base config 'mmseg::...'")
