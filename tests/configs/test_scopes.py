"""Our configs mean the same by ``slak_mm::`` and by path, in whatever scope an inheriting config finds itself."""
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine import Config
from mmengine.registry import HOOKS

from slak_mm.registry import class_of

CONFIGS = Path(__file__).parents[2] / 'configs'
LIBRARY = dict(slak='mmpretrain', convnext='mmpretrain', resnet50='mmpretrain', upernet='mmseg', ham='mmseg', cascade='mmdet',
               faster='mmdet', mask='mmdet', mask2former='mmdet', dino='mmdet', rtmdet='mmdet')


@pytest.fixture
def read(monkeypatch):
    """``Config.fromfile`` that reads each file once, however many configs inherit it."""
    stock, known = Config._file2dict, {}

    def file2dict(filename, *args, **kwargs):
        key = Path(filename).resolve()
        if key not in known:
            known[key] = stock(filename, *args, **kwargs)
        return deepcopy(known[key])

    monkeypatch.setattr(Config, '_file2dict', staticmethod(file2dict))
    return Config.fromfile


@pytest.mark.slow
def test_every_config_by_name_and_by_path(read, tmp_path):
    names = [path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py') if not {'_base_', 'rotated'} & {*path.parts}]
    assert len(names) > 50
    for name in names:
        pytest.importorskip(LIBRARY[name.name.partition('_')[0]])
        path = tmp_path / name.name
        path.write_text(f"_base_ = 'slak_mm::{name}'\n")
        assert read(path).to_dict() == read(CONFIGS / name).to_dict(), name


def test_hooks_are_those_of_the_library(tmp_path):
    hooks = pytest.importorskip('mmpretrain.engine.hooks')
    (tmp_path / 'mine.py').write_text("_base_ = 'slak_mm::_base_/dynamic_sparsity.py'\ndefault_scope = 'mmpretrain'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert class_of(cfg.custom_hooks[1], HOOKS, cfg.default_scope) is hooks.EMAHook
