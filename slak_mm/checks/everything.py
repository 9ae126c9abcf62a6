"""All checks, of splits that are built and of a whole config."""
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import Any, Iterable, Iterator, List, Optional, Tuple, cast

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..models.build import build_model
from ..models.readers import misfits
from ..registry import enter_scope
from .batches import check_batch, check_last_batch, check_metrics
from .class_lists import check_class_names, check_heads, check_splits
from .findings import ERROR, FINE, Finding, collect
from .images import check_files, check_items
from .instances import check_instances
from .left_out import check_left_out
from .refusing import refusing
from .settings import check_custom_keys
from .split import Split

# in this order: what the later ones take for granted, the earlier ones have checked
CHECKS = (check_files, check_left_out, check_class_names, check_heads, check_instances, check_items, check_batch, check_last_batch,
          check_metrics)


def check_split(split: Split) -> Iterator[Finding]:
    """All that is known of a split before its run. Each data set of OpenMMLab is looked at as it was built: what it has parsed, and a
    sample of what its pipeline makes of it.

    Args:
        split (Split): With its loader and model.

    Yields:
        Finding: What is fine, what is to be warned of, and errors. A check may raise instead.

    Raises:
        DataError, OSError: An item or a file cannot be used.
    """
    for check in CHECKS:
        yield from check(split)


def check_all(splits: List[Split]) -> Iterator[Finding]:
    """:func:`check_split` of each, and what they must have in common. The order of errors is that in which they would be met."""
    for split in splits[:1]:
        yield from (Finding(ERROR, text) for text in misfits(split.model))
    for split in splits:
        yield from check_split(split)
    yield from check_splits(splits)


def check_config(cfg: Config) -> Iterator[Finding]:
    """Builds all that a config describes, as a run would, and checks it. Nothing is trained, nothing is written.

    Args:
        cfg (Config): As :func:`load_config` returns it. It is not changed.

    Yields:
        Finding: Of each part. After an error the next part is checked all the same.
    """
    enter_scope(cfg)
    cfg = deepcopy(cfg)
    model, findings = _build_model(cfg)
    yield from findings
    splits = []
    for name in ('train', 'val', 'test'):
        if cfg.get(f'{name}_dataloader') is None:
            continue
        if name == 'test' and all(cfg.get(f'test_{part}') == cfg.get(f'val_{part}') for part in ('dataloader', 'evaluator')):
            yield Finding(FINE, 'test: the same as val.')
            continue
        split, findings = _build_split(cfg, name, model)
        yield from findings
        if split:
            splits.append(split)
            failed = False
            for check in CHECKS if model is not None else ():
                if failed:  # what the others take for granted is not so
                    break
                for finding in collect(_guarded(check(split), f'{name}_dataloader')):
                    failed |= finding.level == ERROR
                    yield Finding(finding.level, f'{name}: {finding.text}')
    yield from collect(check_splits(splits))


def _guarded(findings: Iterable[Finding], what: str) -> Iterator[Finding]:
    with refusing(what):
        yield from findings


def _build_model(cfg: Config) -> Tuple[Optional[nn.Module], List[Finding]]:
    model: Any = None

    def build() -> Iterator[Finding]:
        nonlocal model
        with refusing('model'):
            model = build_model(cfg)
        yield Finding(FINE, f'model: {type(model).__name__} of {sum(p.numel() for p in model.parameters()):,} parameters.')
        yield from (Finding(ERROR, text) for text in misfits(model))
        if cfg.get('optim_wrapper'):
            check_custom_keys(cfg, model)
            with refusing('optim_wrapper'):
                optimizer = getattr(build_optim_wrapper(model, cfg.optim_wrapper), 'optimizer', None)
            yield Finding(FINE, f'optim_wrapper: {type(optimizer).__name__}.')
        for hook in cfg.get('custom_hooks') or ():
            with refusing('custom_hooks'):
                yield Finding(FINE, f'custom_hooks: {type(HOOKS.build(hook)).__name__}.')

    findings = list(collect(build()))
    return model, findings


def _build_split(cfg: Config, name: str, model: Optional[nn.Module]) -> Tuple[Optional[Split], List[Finding]]:
    split: Any = None

    def build() -> Iterator[Finding]:
        nonlocal split
        settings = cfg[f'{name}_dataloader']
        with refusing(f'{name}_dataloader'), redirect_stdout(StringIO()):  # pycocotools prints
            loader = Runner.build_dataloader(settings, seed=0)
        with refusing(f'{name}_evaluator'), redirect_stdout(StringIO()):
            evaluator = cfg.get(f'{name}_evaluator')
            metrics = Runner.build_evaluator(cast(Any, None), evaluator).metrics if evaluator else ()
        for metric in metrics:
            metric.dataset_meta = getattr(loader.dataset, 'metainfo', None)
        loop = cfg.get('train_cfg') or {}
        split = Split(name, loader, model if model is not None else nn.Module(), metrics,
                      loop.get('max_iters') if name == 'train' else None)
        yield Finding(FINE, f'{name}: {len(loader.dataset)} items in batches of {loader.batch_size}.')

    findings = [Finding(each.level, each.text if each.level == FINE else f'{name}: {each.text}') for each in collect(build())]
    return split, findings

