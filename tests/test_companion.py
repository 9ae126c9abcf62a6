"""When slak_mm imports what it consists of: at once beside torch, else after torch or a library that needs it."""
import importlib
import subprocess
import sys

import pytest

from slak_mm.companion import Companion

MODULES = {
    'other': 'import base',  # as mmcv imports mmengine, and mmengine torch
    'base': '',
    'broken': 'import base\nraise RuntimeError',
    'ours/__init__': '',
    'ours/part': 'import other',
    'ours/needed': 'import base',
    'ours/rest': 'import other\nfrom . import part',
}


@pytest.fixture
def companion(tmp_path, monkeypatch):
    """That of a package ``ours``, whose rest follows ``base`` and ``other``; its calls are in ``events``."""
    for name, source in MODULES.items():
        path = tmp_path / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{source}\ncomplete = True')
    events = []

    def before(name):
        if name not in ('base', 'ours.needed'):
            importlib.import_module('ours.needed')

    def after():
        for name in ('base', 'other', 'ours.part'):  # none of them is in the middle of its import
            assert name not in sys.modules or sys.modules[name].complete
        events.append(sorted(name for name in sys.modules if name.split('.')[0] in ('base', 'other', 'broken', 'ours')))
        importlib.import_module('ours.rest')

    created = Companion(lambda name: name in ('base', 'other', 'broken') or name.startswith('ours.'), before, after)
    created.events = events
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', [created, *sys.meta_path])
    importlib.invalidate_caches()
    yield created
    for name in [name for name in sys.modules if name.split('.')[0] in ('base', 'other', 'broken', 'ours')]:
        del sys.modules[name]


@pytest.mark.parametrize('first, there', [
    ('base', ['base']),
    ('other', ['base', 'other', 'ours', 'ours.needed']),
    ('ours.part', ['base', 'other', 'ours', 'ours.needed', 'ours.part']),
    ('ours.needed', ['base', 'ours', 'ours.needed']),
])
def test_the_rest_follows_the_outermost(companion, first, there):
    importlib.import_module(first)
    assert companion.events == [there] and 'ours.rest' in sys.modules and companion not in sys.meta_path
    importlib.import_module('other')
    assert len(companion.events) == 1


def test_it_waits(companion):
    importlib.import_module('ours')
    importlib.import_module('colorsys')
    assert companion.events == [] and companion in sys.meta_path
    assert importlib.util.find_spec('base') is not None  # a question is no import
    assert companion.events == []
    companion.finish()
    companion.finish()
    assert companion.events == [['ours']]


def test_a_module_that_fails_fails_alone(companion):
    with pytest.raises(RuntimeError):
        importlib.import_module('broken')
    assert companion.events == []
    importlib.import_module('other')
    assert len(companion.events) == 1 and 'ours.rest' in sys.modules


def test_each_module_is_loaded_once(companion):
    base = importlib.import_module('base')
    assert sys.modules['base'] is base and sys.modules['ours.part'].other is sys.modules['other']


@pytest.mark.slow
def test_slak_mm_without_torch_and_then_with_it():
    """In a new interpreter, since this one has torch."""
    code = '''
import os, sys
from slak_mm.deploy import Session
from slak_mm import deploy
assert deploy.Session is Session
assert not {'torch', 'torchvision', 'mmengine', 'mmcv', 'onnxruntime'} & sys.modules.keys()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    import torch
else:
    from slak_mm.training import SparsityHook  # a room first
from mmengine.registry import MODELS
import slak_mm
assert MODELS.get('SLaK') is slak_mm.SLaK and slak_mm.training.SparsityHook is slak_mm.SparsityHook
assert not hasattr(slak_mm, 'nothing')
print('registered')
'''
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert result.stdout.split() == ['registered'] * 2, result.stderr
