"""Models in a folder, as Hugging Face has them: config, weights and a model card. Nothing in such a folder is run."""
import json
import math
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, Mapping, Optional, Union

import torch
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry
from torch import Tensor, nn

from .checkpoints import CheckpointError, infer_config, load_file, select_state_dict
from .checkpoints.safetensors import write_safetensors
from .checkpoints.weights import describe_classes
from .errors import InputError, UserError
from .models import SLaK
from .models.build import build_model, quiet
from .registry import LIBRARIES, enter_scope
from .training import Distilled

CONFIG, WEIGHTS, CARD = 'config.json', 'model.safetensors', 'README.md'
# what the parts of a model are registered in
KINDS = 'MODELS', 'TASK_UTILS', 'TRANSFORMS'
# mmcv evaluates the type of these as Python, so no other text may stand there
SUPPRESSIONS = 'nms', 'soft_nms', 'nms_match', 'nms_rotated', 'nms_quadri'
SCOPES = 'slak_mm', 'mmengine', *LIBRARIES
KEPT = 'default_scope', 'model', 'data_preprocessor', 'test_pipeline', 'tta_model', 'tta_pipeline'
PLAIN = str, int, float, bool, type(None)


def save_pretrained(model: nn.Module, folder: Union[str, Path], config: Union[None, str, Path, Config] = None,
                    metrics: Optional[Mapping[str, float]] = None, license: str = 'other', name: Optional[str] = None) -> Path:
    """Saves a model with its config and a model card; :func:`from_pretrained` builds it again, with equal weights.

    Of a model with a teacher (:class:`slak_mm.Distilled`) the student is saved, as its own config has it.

    Args:
        model (nn.Module): A SLaK, or a whole classifier, segmentor or detector.
        folder (str | Path): Where to write config.json, model.safetensors and README.md; it is made if it is not there.
        config (str | Path | Config, optional): That the model was built from. Defaults to None: the model's own ``cfg``, as
            ``init_model`` of mmseg and mmdet sets it, or that of a SLaK, which is known.
        metrics (Mapping, optional): For the card, as ``{'mIoU': 47.6}``. Defaults to None: none.
        license (str): Of the weights, for the card, as ``'apache-2.0'``. Defaults to 'other'.
        name (str, optional): For the card. Defaults to None: that of the folder.

    Returns:
        Path: The folder.

    Raises:
        InputError: The config is not known, is not that of the model, or has values that JSON has not.
        UserError: The safetensors package is not installed.
    """
    cfg = _describe(model, config)
    # weights that are shared, as of heads that are one, are written twice
    weights = {key: value.detach().clone() for key, value in _weights(model).items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    meta = getattr(model, 'dataset_meta', None)
    write_safetensors(str(target / WEIGHTS), weights, dict(dataset_meta=meta) if meta else {})
    (target / CONFIG).write_text(json.dumps(cfg, indent=1) + '\n', encoding='utf-8')
    (target / CARD).write_text(_card(model, name or target.resolve().name, cfg, metrics or {}, license), encoding='utf-8')
    return target


def from_pretrained(folder: Union[str, Path], revision: Optional[str] = None, device: Union[str, torch.device] = 'cpu') -> nn.Module:
    """Builds a model that :func:`save_pretrained` saved, with its weights, in evaluation mode.

    Nothing in the folder is run: the config is JSON, its types must be registered parts of models, and the weights are safetensors.

    Args:
        folder (str | Path): A local folder, or the name of a repository on the Hugging Face hub, as ``'user/slak_t'``, which is
            downloaded.
        revision (str, optional): Of the repository. Defaults to None: the newest.
        device (str | torch.device): Defaults to 'cpu'.

    Returns:
        nn.Module: With its config as ``cfg`` and its classes as ``dataset_meta``, if they were known.

    Raises:
        FileNotFoundError: There is no such folder or repository, or a file is missing in it.
        InputError: The config is damaged, or asks for something that is no part of a model.
        CheckpointError: The weights are damaged or do not fit.
        UserError: A package is not installed.
    """
    path = Path(folder)
    if not path.is_dir():
        path = _download(str(folder), revision)
    for file in (CONFIG, WEIGHTS):
        if not (path / file).is_file():
            raise FileNotFoundError(f'{path} has no {file}: it is no folder of slak_mm.save_pretrained.')
    try:
        content = json.loads((path / CONFIG).read_text(encoding='utf-8'))
    except ValueError as error:
        raise InputError(f'{path / CONFIG} is no JSON: {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('model'), dict):
        raise InputError(f'{path / CONFIG} has no "model", so it is no config of slak_mm.save_pretrained.')
    cfg = Config(content)
    enter_scope(cfg)
    _check_types(content.get('model'), path / CONFIG)
    _check_types(content.get('data_preprocessor'), path / CONFIG)
    with quiet():
        try:
            model = build_model(cfg)
        except (KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise InputError(f'{path / CONFIG} cannot be built: {error}') from error
    checkpoint = load_file(str(path / WEIGHTS))
    weights = select_state_dict(checkpoint)
    wrong = model.state_dict().keys() ^ weights.keys()
    if wrong:
        raise CheckpointError(f'{path / WEIGHTS} does not fit {CONFIG}: {len(wrong)} names are in one of them alone, as '
                              f'{sorted(wrong)[0]!r}. Nothing was loaded.')
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f'{path / WEIGHTS} does not fit {CONFIG}: {error}') from error
    any_model: Any = model
    any_model.cfg = cfg
    for name, value in describe_classes(checkpoint).items():
        setattr(any_model, name, value)
    model.eval()  # some models of the libraries return nothing
    return model.to(device)


def push_to_hub(model: nn.Module, repo_id: str, private: bool = False, token: Optional[str] = None, **options: Any) -> str:
    """Uploads a model to the Hugging Face hub, in the form of :func:`save_pretrained`.

    Args:
        model (nn.Module): See :func:`save_pretrained`.
        repo_id (str): As ``'user/slak_t'``; it is made if it is not there.
        private (bool): Whether a new repository is private. Defaults to False.
        token (str, optional): Defaults to None: that of ``hf auth login``.
        options: Of :func:`save_pretrained`.

    Returns:
        str: Address of the upload.

    Raises:
        UserError: huggingface_hub is not installed.
    """
    api = _huggingface_hub().HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, **dict(dict(name=repo_id.rpartition('/')[2]), **options))
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message='Upload by slak_mm'))


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError('The Hugging Face hub needs a package: pip install huggingface_hub') from None
    return huggingface_hub


def _download(repo_id: str, revision: Optional[str]) -> Path:
    hub = _huggingface_hub()
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except Exception as error:  # of many types: no such name, no network, no right
        raise FileNotFoundError(f'{repo_id} is no folder here, and cannot be had from the Hugging Face hub: '
                                f'{str(error).strip().splitlines()[0]}') from None


def _describe(model: Any, config: Union[None, str, Path, Config]) -> Dict[str, Any]:
    """The config of a model, in types that JSON has; it builds a model with the same weights."""
    found: Any = Config.fromfile(config) if isinstance(config, (str, Path)) else config or getattr(model, 'cfg', None)
    if found is None and isinstance(model, SLaK):
        found = Config(dict(model=dict(
            infer_config(model.state_dict()), type='slak_mm.SLaK', out_indices=model.out_indices,
            gap_before_final_norm=model.gap_before_final_norm, norm_cfg=dict(type='BN'))))
    if found is None:
        raise InputError(f'The config of this {type(model).__name__} is not known: give the one that it was built from, config=...')
    known = {name: found[name] for name in KEPT if found.get(name) is not None}
    if isinstance(model, Distilled):
        known['model'] = known['model'].get('student', known['model'])
    cfg = _plain(known, CONFIG)
    enter_scope(Config(cfg))
    with quiet():
        built = {name: value.shape for name, value in build_model(Config(cfg)).state_dict().items()}
    own = {name: value.shape for name, value in _weights(model).items()}
    wrong = [name for name in built.keys() | own.keys() if built.get(name) != own.get(name)]
    if wrong:
        raise InputError(f'The config is not that of the model: {len(wrong)} weights differ, as {sorted(wrong)[0]!r}, which is '
                         f'{own.get(sorted(wrong)[0])} in the model and {built.get(sorted(wrong)[0])} by the config.')
    return cfg


def _weights(model: nn.Module) -> Dict[str, Tensor]:
    """Those of a model; of a student, without those of the losses of its teacher."""
    return {name: value for name, value in model.state_dict().items()
            if not (isinstance(model, Distilled) and name.startswith('distillation.'))}


def _plain(value: Any, where: str) -> Any:
    """Without ``init_cfg``, whose place the saved weights take, and with the names of classes in place of classes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child, f'{where}.{key}') for key, child in value.items() if key not in ('init_cfg', 'pretrained')}
    if isinstance(value, (list, tuple)):
        return [_plain(child, where) for child in value]
    if isinstance(value, type):
        return f'{value.__module__.partition(".")[0]}.{value.__name__}'
    if isinstance(value, float) and not math.isfinite(value) or not isinstance(value, PLAIN):
        raise InputError(f'{where} is {value!r}, which JSON has not.')
    return value


def _check_types(node: Any, path: Path) -> None:
    """Raises an InputError for a ``type`` that is not a registered part of models: mmengine would import and call it."""
    if isinstance(node, dict):
        if node.get('_scope_', SCOPES[0]) not in SCOPES:
            raise InputError(f'{path} has _scope_={node["_scope_"]!r}, which is none of {", ".join(SCOPES)}. Nothing was run.')
        name = node.get('type')
        if name is not None and not _is_part(name):
            raise InputError(f'{path} asks for type={name!r}, which is no registered part of a model. Nothing was run. If it is one '
                             'of yours, import its module first.')
        node = [*node.values()]
    for child in node if isinstance(node, list) else ():
        _check_types(child, path)


def _roots() -> Iterator[Registry]:
    yield from (getattr(registries, kind) for kind in KINDS)
    with suppress(ImportError):  # Mixup, CutMix
        from mmpretrain.registry import BATCH_AUGMENTS
        yield BATCH_AUGMENTS


def _is_part(name: Any) -> bool:
    """Whether a model's config may have this ``type``: it is registered, or a layer that mmdet looks for in mmcv.ops."""
    if not isinstance(name, str):
        return False
    if name in SUPPRESSIONS:
        return True
    scope, _, bare = name.rpartition('.')
    for root in _roots():
        root.import_from_location()
        if any(bare in registry.module_dict for registry in (root, *root.children.values())
               if registry.scope == scope or not scope and registry.scope in SCOPES):
            return True
    with suppress(ImportError):
        from mmcv import ops
        return not scope and isinstance(getattr(ops, bare, None), type) and issubclass(getattr(ops, bare), nn.Module)
    return False


def _card(model: nn.Module, name: str, cfg: Mapping[str, Any], metrics: Mapping[str, float], license: str) -> str:
    saved = _weights(model)
    weights = [value for value in saved.values() if value.ndim > 1]
    density = sum(int(value.count_nonzero()) for value in weights) / max(1, sum(value.numel() for value in weights))
    count = sum(value.numel() for key, value in model.named_parameters() if key in saved)
    table = ''.join(f'| {key} | {value} |\n' for key, value in metrics.items())
    results = f'\n| metric | value |\n|---|---|\n{table}' if metrics else '\nNone were given.\n'
    kind = cfg['model']['type']
    return (f'---\nlicense: {json.dumps(license)}\nlibrary_name: slak_mm\ntags:\n- slak_mm\n- openmmlab\n---\n\n# {name}\n\n'
            f'{kind} with {count:,} parameters; {density:.1%} of its weights are not zero. '
            f'{"For " + cfg["default_scope"] + "." if cfg.get("default_scope") else ""}\n\n'
            '```python\nimport slak_mm\n\nmodel = slak_mm.from_pretrained("THIS_REPOSITORY_OR_FOLDER")\n```\n\n'
            f'## Results\n{results}\n## Licence\n\n{license}\n')
