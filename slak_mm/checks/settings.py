"""Settings below the top of a config that nothing reads.

Most of a config becomes arguments, and Python refuses one that it does not know. Some dicts are looked into key by key, where mmengine
passes over what is not looked for. What is looked for stands in the code that does so: as a string, or as the name of an attribute.
"""
import difflib
import dis
import inspect
import logging
import sys
from functools import lru_cache
from types import CodeType
from typing import Any, FrozenSet, Iterable, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
)
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from ..errors import InputError
from ..registry import class_of, is_a

# of a config, and where what is in it is registered
PARTS = {'model': (MODELS, ), 'visualizer': (VISUALIZERS, VISBACKENDS), 'custom_hooks': (HOOKS, ), 'default_hooks': (HOOKS, ),
         **{f'{split}_dataloader': (TRANSFORMS, DATASETS, DATA_SAMPLERS) for split in ('train', 'val', 'test')},
         **{f'{split}_evaluator': (METRICS, EVALUATOR) for split in ('val', 'test')}}
DEFAULT_HOOKS = ('checkpoint', 'check_loss', 'exact_resume', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer',
                 'visualization')
LAYER_DECAY = 'decay_rate', 'decay_type', 'layer_decay_rate', 'num_layers'
# of SparsityHook: an option, a value of it, and what has no effect with that
WITHOUT_EFFECT = (('init', 'checkpoint', ('sparsity', )),
                  ('grow', None, ('interval', 'min_prune_rate', 'prune', 'prune_rate', 'stop_at')))


def check_settings(cfg: Config) -> None:
    """Looks into those parts of a config that are read key by key.

    A key that nothing reads is refused if another that is read looks like it, and else named in a warning. Settings of which one
    leaves the other without effect are named too.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` reads it.

    Raises:
        InputError: A key is misspelt, or is for another constructor of optimizers.
    """
    scope = cfg.get('default_scope')
    _check('env_cfg', cfg.get('env_cfg'), _of_code(Runner.setup_env.__code__))
    _check('auto_scale_lr', cfg.get('auto_scale_lr'), _of_code(Runner.scale_lr.__code__))
    if isinstance(cfg.get('optim_wrapper'), dict):
        _check_optimizer(cfg.optim_wrapper, scope)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        for name, dataset in _datasets(f'{split}_dataloader.dataset', loader.get('dataset') if isinstance(loader, dict) else None):
            _check_dataset(name, dataset, scope)
    _check_model(cfg, scope)
    _check_hooks(cfg, scope)
    _check_epochs(cfg, scope)
    for part, registries in PARTS.items():
        for name, node in _dicts(part, cfg.get(part)):
            kinds = (class_of(node, registry, scope) for registry in registries)
            taken = _arguments(next(filter(None, kinds), None))
            if taken is not None:
                _check(name, node, taken | {'type', 'priority'})


def check_custom_keys(cfg: Config, model: nn.Module) -> None:
    """Warns of ``paramwise_cfg.custom_keys`` that are in no parameter's name."""
    optim_wrapper = cfg.get('optim_wrapper')
    paramwise = (optim_wrapper.get('paramwise_cfg') if isinstance(optim_wrapper, dict) else None) or {}
    unused = [key for key in paramwise.get('custom_keys') or () if not any(key in name for name, _ in model.named_parameters())]
    if unused and 'decay_rate' not in paramwise:  # LayerDecayOptimWrapperConstructor says so itself
        _warn(f'optim_wrapper.paramwise_cfg.custom_keys: no parameter has {", ".join(unused)} in its name, so nothing is set by it.')


def _check_optimizer(optim_wrapper: dict, scope: Optional[str]) -> None:
    paramwise, name = optim_wrapper.get('paramwise_cfg') or {}, 'optim_wrapper.paramwise_cfg'
    kind = class_of(dict(type=optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')), OPTIM_WRAPPER_CONSTRUCTORS, scope)
    if kind is None or not isinstance(paramwise, dict):
        return
    words = _of_class(kind)
    foreign = [key for key in LAYER_DECAY if key in paramwise and key not in words]
    if foreign:
        raise InputError(f'{name}: {kind.__name__} does not read {", ".join(foreign)}, and everything would learn at one rate. For '
                         "layer decay add constructor='slak_mm.LayerDecayOptimWrapperConstructor' to optim_wrapper, with "
                         'paramwise_cfg=dict(decay_rate=..., decay_type=...).')
    _check(name, paramwise, words)
    optimizer = class_of(optim_wrapper.get('optimizer'), OPTIMIZERS, scope)
    words = words & {'lr_mult', 'decay_mult'}  # the rest is a setting of the parameters' group
    words |= {*inspect.signature(optimizer).parameters, *_of_class(optimizer)} if optimizer is not None else set()
    for key, value in (paramwise.get('custom_keys') or {}).items():
        _check(f'{name}.custom_keys[{key!r}]', value, words)


def _datasets(name: str, node: Any) -> Iterator[Tuple[str, dict]]:
    if isinstance(node, dict):
        yield name, node
        yield from _datasets(f'{name}.dataset', node.get('dataset'))
        for i, inner in enumerate(node.get('datasets') or ()):
            yield from _datasets(f'{name}.datasets.{i}', inner)


def _check_dataset(name: str, dataset: dict, scope: Optional[str]) -> None:
    for key in dataset.get('metainfo') or () if isinstance(dataset.get('metainfo'), dict) else ():
        if key in ('CLASSES', 'PALETTE'):
            raise InputError(f'{name}.metainfo: nothing reads {key!r}, which OpenMMLab 1.x had. Write {key.lower()!r}.')
    kind = class_of(dataset, DATASETS, scope)
    if kind is not None:
        for part in ('filter_cfg', 'data_prefix'):
            _check(f'{name}.{part}', dataset.get(part), _of_class(kind))


def _check_model(cfg: Config, scope: Optional[str]) -> None:
    """Typos in the model's ``train_cfg`` and ``test_cfg``; libraries' own have keys that nothing reads any more."""
    words: FrozenSet[str] = frozenset()
    found = []
    pending = [('model', cfg.get('model'))]
    while pending:
        name, node = pending.pop()
        if isinstance(node, dict):
            kind = class_of(node, MODELS, scope)
            words |= _of_class(kind) if kind is not None else words
            found += [(f'{name}.{key}', node[key]) for key in ('train_cfg', 'test_cfg') if node.get(key)]
            pending += [(f'{name}.{key}', value) for key, value in node.items() if key not in ('train_cfg', 'test_cfg')]
        elif isinstance(node, (list, tuple)):
            pending += [(f'{name}.{i}', value) for i, value in enumerate(node)]
    while found:
        name, node = found.pop()
        if isinstance(node, dict) and 'type' not in node:
            _check(name, node, words, only_typos=True)
            found += [(f'{name}.{key}', value) for key, value in node.items()]
        elif isinstance(node, (list, tuple)):
            found += [(f'{name}.{i}', value) for i, value in enumerate(node)]


def _check_hooks(cfg: Config, scope: Optional[str]) -> None:
    hooks = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    hooks += [(f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or ())]
    for name, hook in hooks:
        if isinstance(hook, dict) and 'type' not in hook:
            key = name.partition('.')[2]
            close = difflib.get_close_matches(key, [other for other in DEFAULT_HOOKS if other != key], n=1)
            raise InputError(f'{name}: it has no type, so it is no hook.' + (f' Write {close[0]!r} if it is meant.' if close else ''))
        kind = class_of(hook, HOOKS, scope)
        if kind is None:
            continue
        if issubclass(kind, CheckpointHook):  # it hands what it does not know to the first save, hours later
            constructors = [vars(base)['__init__'] for base in kind.__mro__[:-1] if '__init__' in vars(base)]
            _check(name, hook, {'type', 'priority'}.union(*(inspect.signature(function).parameters
                                                            for function in (*constructors, Runner.save_checkpoint))))
        for key, value, unused in WITHOUT_EFFECT if is_a(hook, 'SparsityHook', HOOKS, scope) else ():
            without = [other for other in unused if other in hook and key in hook and hook[key] == value]
            if without:
                _warn(f'{name}: with {key}={value!r}, SparsityHook does not use {", ".join(without)}.')


def _check_epochs(cfg: Config, scope: Optional[str]) -> None:
    """mmengine counts by epochs unless told otherwise, and a loop of iterations is one epoch."""
    loop = cfg.get('train_cfg') or {}
    kind = class_of(loop, LOOPS, scope)
    if not (kind is not None and issubclass(kind, IterBasedTrainLoop) or kind is None and loop.get('by_epoch') is False):
        return
    schedulers = cfg.get('param_scheduler') or ()
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        if isinstance(scheduler, dict) and scheduler.get('by_epoch', True):
            _warn(f'param_scheduler.{i}: it counts epochs, but train_cfg counts iterations, which are one epoch: it never takes '
                  'effect. Set by_epoch=False.')
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('by_epoch', True) and checkpoint.get('interval', -1) > 0:
        _warn('default_hooks.checkpoint: it counts epochs, but train_cfg counts iterations, which are one epoch: nothing is saved '
              'before the end. Set by_epoch=False.')


def _dicts(name: str, node: Any) -> Iterator[Tuple[str, dict]]:
    """Every dict in a part of a config that has a type, by its place."""
    if isinstance(node, dict):
        if node.get('type') is not None:
            yield name, node
        for key, value in node.items():
            yield from _dicts(f'{name}.{key}', value)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _dicts(f'{name}.{i}', value)


@lru_cache(maxsize=None)
def _arguments(kind: Optional[type]) -> Optional[FrozenSet[str]]:
    """What the constructor of a class takes, if it swallows everything else: has ``**kwargs`` and does nothing with them.

    None if it does not: what is too much is refused by Python then.
    """
    taken: FrozenSet[str] = frozenset()
    for base in getattr(kind, '__mro__', ()):
        function = inspect.unwrap(vars(base).get('__init__', object.__init__))
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        taken |= parameters.keys()
        rest = next((name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD), None)
        if rest is None:
            return None
        if not any(step.argval == rest and step.opname.startswith('LOAD') for step in dis.get_instructions(function)):
            return taken
    return None


def _check(name: str, settings: Any, words: Iterable[str], only_typos: bool = False) -> None:
    words = set(words)
    for key in settings if isinstance(settings, dict) else ():
        if key in words or key == '_scope_' or not isinstance(key, str):
            continue
        close = difflib.get_close_matches(key, words, n=1, cutoff=.85)
        if close:
            raise InputError(f'{name}: nothing reads {key!r}. Write {close[0]!r}.')
        if not only_typos:
            _warn(f'{name}: nothing reads {key!r}, so it has no effect. Remove it or correct its name.')


def _warn(message: str) -> None:
    print_log(message, 'current', logging.WARNING)


def _of_class(kind: type) -> FrozenSet[str]:
    """The words of the modules that a class and its bases are from."""
    modules = {base.__module__ for base in kind.__mro__} - {'builtins', 'abc', 'typing', nn.Module.__module__}
    return frozenset().union(*map(_of_module, modules))


@lru_cache(maxsize=None)
def _of_module(name: str) -> FrozenSet[str]:
    found: FrozenSet[str] = frozenset()
    pending: list = [*vars(sys.modules[name]).values()] if name in sys.modules else []
    while pending:
        value = pending.pop()
        if isinstance(value, type) and value.__module__ == name:
            pending += vars(value).values()
        elif isinstance(value, property):
            pending += [value.fget, value.fset]
        elif isinstance(value, (classmethod, staticmethod)):
            pending.append(value.__func__)
        elif inspect.isfunction(value):
            found |= _of_code(inspect.unwrap(value).__code__)
    return found


def _of_code(code: CodeType) -> FrozenSet[str]:
    """All strings and names in a function, its arguments and the functions in it."""
    words = {*code.co_names, *code.co_varnames}
    pending: list = list(code.co_consts)
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            words.add(value)
        elif isinstance(value, CodeType):
            words |= _of_code(value)
        elif isinstance(value, (tuple, frozenset)):
            pending += value
    return frozenset(words)
