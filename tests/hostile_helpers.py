"""Runs the tools in this process, on our configs made small."""
import importlib.util
import sys
from pathlib import Path

from micro_configs import shrink
from mmengine import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[1]


def run_tool(name: str, *args) -> None:
    """Runs a tool in this process, as ``python tools/NAME.py ARGS`` would."""
    folder, argv = str(ROOT / 'tools'), sys.argv
    sys.path.insert(0, folder)
    _forget()
    try:
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / f'tools/{name}.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        sys.argv = [f'{name}.py', *map(str, args)]
        sys.modules['common'].run(tool.main)
    finally:
        sys.argv = argv
        sys.path.remove(folder)
        _forget()


def _forget() -> None:
    """Other runs of this process."""
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()  # they write to what pytest has closed by the next test
    for kind in (Visualizer, *Visualizer.__subclasses__()):  # of one name, the first is used for ever, and its folder and place
        kind._instance_dict.clear()


def read(name: str, root: Path) -> Config:
    """One of our configs, shrunk, on data in ``root``."""
    cfg = shrink(Config.fromfile(ROOT / f'configs/{name}.py'))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
        evaluator = cfg.get(f'{split}_evaluator', {})
        if 'ann_file' in evaluator:
            evaluator.ann_file = str(root / 'annotations/instances_val2017.json')
    return cfg
