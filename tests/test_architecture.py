"""Which room of slak_mm may import which, and what none may import: docs/architecture.md has the picture."""
import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'slak_mm'
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)
# from low to high; what is in one set is on one level, and does not import each other, but for ALLOWED
LEVELS = [{'errors', 'companion'}, {'registry', 'compat'}, {'sparsity'}, {'checkpoints'}, {'models'},
          {'training', 'reliability', 'checks', 'deploy', 'analysis', 'toy', 'implicit_gemm'}, {'hub', 'timm', 'zoo'}, {'public'},
          {'__init__'}]
# on one level: who may import whom, and why
ALLOWED = {('deploy', 'checks'): 'images and configs are checked before a prediction',
           ('analysis', 'deploy'): 'the speed of exported files is measured',
           ('analysis', 'toy'): 'studies run tools as the demo does'}
# room: the only packages that it may import, with the standard library and itself
ALONE = {'slak_mm.sparsity': {'torch', 'numpy'}, 'slak_mm.models.ops': {'torch', 'numpy', 'triton'}}
LIBRARIES = {'mmdet', 'mmseg', 'mmpretrain'}  # a user may have one of them: imported in functions alone
# imported by modules that slak_mm itself does not import
OPTIONAL = {'matplotlib', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'scipy', 'sklearn', 'timm'}
pytestmark = pytest.mark.skipif(sys.version_info < (3, 10), reason='no list of the standard library; one Python is enough')


def imports(source: str, module: str, is_package: bool = False):
    """Full name of each module that a source imports, and whether it does so as it is imported itself."""
    parts = module.split('.') if is_package else module.split('.')[:-1]
    tree = ast.parse(source)
    inner = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
             for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(parts[:len(parts) - node.level + 1]) if node.level else ''
            base = '.'.join(filter(None, [base, node.module]))
            # each name may be a module
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in inner) for name in names)


def room_of(name: str) -> str:
    """The room of a module, or of a name in it; what is in slak_mm itself is of the room '__init__'."""
    parts = name.split('.')
    rooms = set().union(*LEVELS)
    return parts[1] if len(parts) > 1 and parts[1] in rooms else '__init__'


def faults(source: str, module: str, is_package: bool = False) -> list:
    """What is wrong about the imports of a module."""
    level = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
    found = []
    for name, at_import in imports(source, module, is_package):
        top = name.partition('.')[0]
        if top == 'slak_mm':
            mine, other = room_of(module), room_of(name)
            if mine != other and level[other] >= level[mine] and (mine, other) not in ALLOWED:
                found.append(f'{module} imports {name}: {mine} may not import {other}')
        elif top in LIBRARIES and at_import:
            found.append(f'{module} imports {top} when it is imported')
        elif top in ('tools', 'tests'):
            found.append(f'{module} imports {name}')
        for room, packages in ALONE.items():
            if f'{module}.'.startswith(f'{room}.') and not f'{name}.'.startswith(f'{room}.'):
                if top not in packages | set(sys.stdlib_module_names):
                    found.append(f'{module} imports {name}: {room} imports {", ".join(sorted(packages))} alone')
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@pytest.mark.parametrize('path', FILES, ids=module_of)
def test_imports_point_one_way(path):
    assert faults(path.read_text(), module_of(path), path.name == '__init__.py') == []


def test_every_room_has_a_level():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert rooms == set().union(*LEVELS)


@pytest.mark.parametrize('module, source, fault', [
    ('slak_mm.models.slak', 'from ..training import SparsityHook', 'models may not import training'),
    ('slak_mm.models.slak', 'from .. import zoo', 'models may not import zoo'),
    ('slak_mm.models.slak', 'from .. import SLaK', 'models may not import __init__'),
    ('slak_mm.models.ops.mlp', 'from ...analysis.flops import complexity', 'models may not import analysis'),
    ('slak_mm.checkpoints.fit', 'def f():\n    from slak_mm.models import SLaK', 'checkpoints may not import models'),
    ('slak_mm.training.options', 'import slak_mm.reliability.options', 'training may not import reliability'),
    ('slak_mm.checks.config', 'from ..deploy import predict', 'checks may not import deploy'),
    ('slak_mm.errors', 'from . import registry', 'errors may not import registry'),
    ('slak_mm.sparsity.masks', 'import mmengine', 'slak_mm.sparsity imports numpy, torch alone'),
    ('slak_mm.sparsity.masks', 'from ..errors import UserError', 'slak_mm.sparsity imports numpy, torch alone'),
    ('slak_mm.models.ops.mlp', 'from ..wrappers import unwrap', 'slak_mm.models.ops imports numpy, torch, triton alone'),
    ('slak_mm.analysis.flops', 'try:\n    import mmdet.models\nexcept ImportError:\n    pass', 'imports mmdet when it is imported'),
    ('slak_mm.analysis.flops', 'from tools import common', 'imports tools.common'),
])
def test_a_wrong_import_is_found(module, source, fault):
    found = faults(source, module)
    assert found and fault in found[0]


@pytest.mark.parametrize('module, source', [
    ('slak_mm.models.slak', 'from ..checkpoints.fit import adapt_state_dict\nfrom .ops import norm_mlp'),
    ('slak_mm.analysis.flops', 'def f():\n    from mmdet.registry import DATASETS'),
    ('slak_mm.deploy.predict', 'from ..checks import cut_short'),
    ('slak_mm.models.ops.mlp', 'import math\nimport triton.language as tl\nfrom . import backend'),
    ('slak_mm.zoo', 'from .models.build import build_model'),
])
def test_a_right_import_is_not(module, source):
    assert faults(source, module) == []


def test_optional_packages_are_not_needed_to_import_slak_mm():
    """Nor is any room that is not part of ``import slak_mm``: followed through the sources, from slak_mm itself."""
    sources = {module_of(path): path for path in FILES}
    pending, seen = ['slak_mm'], set()
    while pending:
        module = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        path = sources[module]
        for name, at_import in imports(path.read_text(), module, path.name == '__init__.py'):
            if at_import:
                assert name.partition('.')[0] not in OPTIONAL, f'{module} imports {name}'
                parts = name.split('.')
                pending += [part for part in ('.'.join(parts[:i + 1]) for i in range(len(parts))) if part in sources]
    assert {'slak_mm.models.slak', 'slak_mm.training.sparsity_hook'} <= seen
    assert not seen & {'slak_mm.deploy.export', 'slak_mm.analysis.studies.photos', 'slak_mm.analysis.erf_figure'}
