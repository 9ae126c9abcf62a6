"""Writes a text-style config as a new-style one: each type a class that is imported, and no ``default_scope``."""
from pathlib import Path
from typing import Any, Dict

from mmengine import Config, registry

from slak_mm.registry import class_of

REGISTRIES = (registry.TRANSFORMS, registry.DATASETS, registry.DATA_SAMPLERS, registry.MODELS, registry.HOOKS, registry.METRICS,
              registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS, registry.LOOPS, registry.VISUALIZERS,
              registry.VISBACKENDS, registry.LOG_PROCESSORS, registry.TASK_UTILS)
NAMES = 'norm_cfg', 'act_cfg', 'conv_cfg', 'nms'  # whose types are names in new-style configs too


def write_new_style(cfg: Config, path: Path) -> None:
    """Writes ``cfg``, of any of the three libraries, whole."""
    imported: Dict[str, type] = {}

    def literal(node: Any, key: str = '') -> str:
        if isinstance(node, dict):
            items = {name: literal(value, name) for name, value in node.items() if name not in ('type', '_scope_')}
            kind = node.get('type')
            if kind is not None:
                kinds = (class_of(node, each, cfg.default_scope) for each in REGISTRIES if key not in NAMES)
                found = next(filter(None, kinds), None)
                items['type'] = repr(kind) if found is None else found.__name__
                if found is not None:
                    assert imported.setdefault(found.__name__, found) is found, found
            return f'{{{", ".join(f"{name!r}: {value}" for name, value in items.items())}}}'
        if isinstance(node, (list, tuple)):
            inner = ', '.join(literal(item, key) for item in node)
            return f'[{inner}]' if isinstance(node, list) else f'({inner}, )'
        return repr(node)

    lines = [f'{name} = {literal(value, name)}' for name, value in cfg.items() if name != 'default_scope']
    imports = [f'from {kind.__module__} import {name}' for name, kind in sorted(imported.items())]
    path.write_text('\n'.join([*imports, *lines, 'default_scope = None', '']))
