"""Whole models in one file: kernels merged and padded, standard operators of ONNX. Needs onnx, onnxruntime and onnxscript."""
import ast
import copy
import inspect
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import onnx
import onnxscript.optimizer
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.fx.experimental import _config

from ..checkpoints import check_fits, named, source
from ..errors import InputError, UserError
from ..models.backbones import backbone_cfg, backbone_cfgs, backbone_of
from ..models.build import build_model, quiet
from ..models.readers import require_fit
from ..registry import enter_scope, library_of
from .describe import classes_of, fixed_size, loading, model_of, pipeline_steps
from .description import KEY, pack
from .merge import merge_model
from .whole import Classifier, Features, Normalize, Whole, preprocessing

OLDEST_TORCH = '2.6'
NO_LIMIT = 2**40
size_config: Any = _config
LEAST, MOST = 32, 8192  # pixels of a side: the backbone makes it 32 times smaller


class Options(NamedTuple):
    """How a model is exported.

    Args:
        size (tuple[int, int], optional): Height and width of the images. Defaults to None: any.
        preprocess (bool): Whether the file normalizes images. Defaults to False.
        backbone (bool): The backbone alone, whose outputs are its maps. Defaults to False.
        logits (bool): Of a classifier, logits in place of scores. Defaults to False.
        pad (int): The maps in the backbone get a multiple of this many channels. Defaults to 16, which onnxruntime wants.
        opset (int): Of ONNX, from 18. Defaults to 20, the first that has GELU.
    """
    size: Optional[Tuple[int, int]] = None
    preprocess: bool = False
    backbone: bool = False
    logits: bool = False
    pad: int = 16
    opset: int = 20


def check_torch() -> None:
    """Raises a UserError if torch is too old."""
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        raise UserError(f'the export needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}. Run it in another environment: '
                        'the checkpoint may be of any.')


def load(model: nn.Module, path: str) -> Dict[str, Any]:
    """Into a model that has a ``backbone``, from any file that tools/test.py takes; no weight may stay at random.

    Returns:
        dict: What the file says of its classes.
    """
    loaded = CheckpointLoader.load_checkpoint(source(path), 'cpu')
    with named(path):
        check_fits(loaded['state_dict'], model)
    model.load_state_dict(loaded['state_dict'], strict=False)
    return loaded.get('meta', {}).get('dataset_meta') or {}


def build(cfg: Config, checkpoint: str, backbone_only: bool = False) -> Tuple[nn.Module, Dict[str, Any]]:
    """The model as it was trained, for inference.

    Args:
        cfg (Config): Of the whole model.
        checkpoint (str): Path or URL; 'none' for random weights.
        backbone_only (bool): The backbone alone. Defaults to False.

    Returns:
        tuple[nn.Module, dict]: The model, and what the checkpoint says of its classes.

    Raises:
        InputError: Its neck or heads do not take what its backbone gives.
    """
    enter_scope(cfg)
    model = _build_backbone(cfg) if backbone_only else build_model(cfg)
    require_fit(model)
    meta = {} if checkpoint == 'none' else load(model, checkpoint)
    return revert_sync_batchnorm(backbone_of(model) if backbone_only else model).eval(), meta


def _build_backbone(cfg: Config) -> nn.Module:
    """The backbone alone, in modules that give its weights the names that they have in the whole model."""
    module = MODELS.build(backbone_cfg(cfg))
    for part in reversed(next(iter(backbone_cfgs(cfg))).split('.')[1:]):
        module = nn.ModuleDict({part: module})
    return module


def whole_model(cfg: Config, model: Any, meta: Dict[str, Any], options: Options) -> Tuple[Whole, Dict[str, Any]]:
    """A model as a graph, and its description.

    Args:
        cfg (Config): Of the model.
        model (nn.Module): Of :func:`build`. It is not changed.
        meta (dict): Of :func:`build`.
        options (Options): What is wanted.

    Raises:
        InputError: The model predicts in a way that is not known here, or takes no images of the size.
    """
    task = 'features' if options.backbone else model_of(cfg)['task']
    backbone = backbone_cfg(cfg)
    copied = copy.deepcopy(model)
    merge_model(copied, options.pad)
    parts: Dict[str, Any] = {}
    least = LEAST, LEAST
    known: Any = dict(mean=None, std=None, swap=False, divisor=1, pad_value=0.)
    if task != 'features':
        known = preprocessing(model.data_preprocessor)
    if task == 'classification':
        network: nn.Module = Classifier(copied, options.logits)
    elif task == 'segmentation':
        from .segmentation import Segmentor
        network = Segmentor(copied, free=options.size is None)
        parts['segmentation'] = network.settings
        if network.slides and options.size is None:
            least = tuple(copied.test_cfg.crop_size)
    elif task == 'detection':
        from .detection import DetectorGraph
        network = DetectorGraph(copied)
        parts['detection'] = dict(mask_threshold=network.mask_threshold)
        if options.size is None:
            least = (network.least(known['divisor']), ) * 2
    elif options.backbone:
        network = Features(copied)
    else:
        raise InputError(f'{library_of(cfg)} is none of the libraries whose models are exported as a whole: add --backbone.')
    if options.size is not None and any(given < needed for given, needed in zip(options.size, least)):
        raise InputError(f'--shape {options.size[0]} {options.size[1]}: the model needs images of at least {least[0]} {least[1]}.')
    if options.preprocess and options.backbone:
        raise InputError('--preprocess: the backbone alone has no pre-processing. Leave out one of the two.')
    normalize = Normalize(known['mean'], known['std'], known['swap']) if options.preprocess else nn.Identity()
    whole = Whole(network, normalize, known['divisor'], known['pad_value']).eval()
    steps = pipeline_steps(cfg)
    description = dict(
        **dict(model_of(cfg), task=task), **classes_of(cfg, meta),
        outputs=[*whole.output_names],
        input=dict(name='images', channels=backbone.get('in_channels', 3), dtype='uint8' if options.preprocess else 'float32',
                   size=options.size and [*options.size], min_size=[*least], batch=1 if task == 'detection' else None),
        preprocess=dict(known, inside=options.preprocess),
        load=loading(cfg), pipeline=steps, **parts)
    return whole, description


def _name_after_module(node: onnx.NodeProto) -> str:
    """The name of a node, with that of the module that it computes: ``backbone.stages.0.0.pwconv1/node_MatMul_8``."""
    scopes = [ast.literal_eval(prop.value) for prop in node.metadata_props if prop.key == 'pkg.torch.onnx.name_scopes']
    module = scopes[0][-2] if scopes and len(scopes[0]) > 1 else ''
    for wrapper in ('network.', 'model.'):
        module = module[len(wrapper):] if module.startswith(wrapper) else module
    return f'{module}/{node.name}' if module else node.name


def choose_size(cfg: Config, given: Optional[Sequence[int]], free: bool) -> Optional[Tuple[int, int]]:
    """Height and width of the images: those given, else what the test pipeline makes of every image, if it does.

    Returns:
        tuple[int, int], optional: None if they are free.
    """
    if free:
        return None
    return (given[0], given[1]) if given else fixed_size(pipeline_steps(cfg))


def random_images(description: Dict[str, Any], batch: int, size: Sequence[int]) -> Tensor:
    """Pixels (N, C, H, W) of coloured patches with noise: something to detect, of bytes; the same in each call."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (batch, description['input']['channels'], 5, 6), generator=generator).float()
    patches = nn.functional.interpolate(patches, size=tuple(size))
    return (patches + 20 * torch.randn(patches.shape, generator=generator)).clamp(0, 255).byte()


def prepared(images: Tensor, description: Dict[str, Any]) -> Tensor:
    """Pixels (N, C, H, W) as the file takes them."""
    known = description['preprocess']
    return images if known['inside'] else Normalize(known['mean'], known['std'], known['swap'])(images)


@torch.no_grad()
def trace(whole: Whole, description: Dict[str, Any]) -> Any:
    """The program of ``torch.export`` of a model.

    Args:
        whole (Whole): Of :func:`whole_model`.
        description (dict): Of :func:`whole_model`.
    """
    size, batch = description['input']['size'], description['input']['batch'] or 2  # of one the exporter might take for a constant
    settings: Dict[str, Any] = {}
    dims: Dict[int, Any] = {} if description['input']['batch'] else {0: torch.export.Dim('batch')}
    if size is None:
        least = description['input']['min_size']
        # other numbers than any length in the model
        size = [max(192, low + low // 2) + extra for low, extra in zip(least, (0, 64))]
        dims.update({dim: torch.export.Dim(name, min=low, max=MOST) for dim, name, low in zip((2, 3), ('height', 'width'), least)})
        # guards on numbers of windows or places that the graph does not depend on
        settings['prefer_deferred_runtime_asserts_over_guards'] = True
        if not settings.keys() <= inspect.signature(torch.export.export).parameters.keys():
            raise UserError(f'the export for images of any size needs a newer torch than {torch.__version__}. Give one with --shape.')
    images = prepared(random_images(description, batch, size), description)
    with quiet(), size_config.patch(backed_size_oblivious=True):  # torch says much about itself; a length of 1 is one of many
        return torch.export.export(whole, (images, ), dynamic_shapes=(dims, ), **settings)


@torch.no_grad()
def export(whole: Whole, description: Dict[str, Any], opset: int = 20) -> onnx.ModelProto:
    """Exports a model with torch's exporter, simplified, with its description.

    Args:
        whole (Whole): Of :func:`whole_model`.
        description (dict): Of :func:`whole_model`.
        opset (int): Of ONNX, from 18. Defaults to 20.
    """
    exported = trace(whole, description)
    translations = None
    if description['task'] == 'detection':
        from .operators import translations as make
        translations = make()
    with quiet():
        program: Any = torch.onnx.export(exported, dynamo=True, verbose=False, input_names=['images'], output_names=whole.output_names,
                                         opset_version=opset, custom_translation_table=translations, optimize=False)
        # without limits, or the taps that cannot reach a map would be cut off again at each start
        onnxscript.optimizer.optimize(program.model, num_iterations=1, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    proto = program.model_proto
    for node in proto.graph.node:
        node.name = _name_after_module(node)
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del item.metadata_props[:]  # stack traces, with the paths of this machine
    onnx.helper.set_model_props(proto, {KEY: pack(description)})
    onnx.checker.check_model(proto)
    return proto
