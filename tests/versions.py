"""Marks for tests of what older versions lack; requirements/versions.sh runs the tests with those."""
import pytest
import torch
from mmengine.utils import digit_version


def needs_torch(version: str):
    """``@needs_torch('2.0')``, or ``marks=`` of a ``pytest.param``."""
    return pytest.mark.skipif(digit_version(torch.__version__) < digit_version(version), reason=f'torch < {version}')
