from typing import Dict, Optional

from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .file import CheckpointError, load_file, named
from .fit import backbones
from .names import STEM, convert_state_dict, move
from .stem import adapt_stem, check_stem
from .weights import select_state_dict


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedInit(MMEnginePretrainedInit):
    """``init_cfg=dict(type='Pretrained', ...)`` that also knows the files of SLaK; for any other module it is mmengine's own.

    Takes the place of mmengine's initializer of that name, which loads nothing of an official file and only warns.

    Args:
        checkpoint (str): Path or URL of an official, downstream, converted or mmengine file.
        prefix (str, optional): What stands before the backbone's keys in the file. Found by itself if the file holds one backbone.
        map_location (str): Defaults to 'cpu'.
        key (str, optional): Entry of the file that holds the weights, e.g. ``'model_ema'``. Defaults to None: ``state_dict``, or
            ``model`` in official files.
        stem (str, optional): What becomes of the first convolution if the backbone's ``in_channels`` is another than the file's:
            ``'sum'``, ``'repeat'``, ``'first'`` or ``'random'``, see ``slak_mm.checkpoints.adapt_stem``. Defaults to
            None: such a file is refused.

    Raises:
        ValueError: ``stem`` is unknown, or ``key`` or ``stem`` is given for a module without a SLaK.
        CheckpointError: The file is unreadable, unsafe, matches nothing, or does not fit; nothing was loaded.
    """

    def __init__(self, checkpoint: str, prefix: Optional[str] = None, map_location: str = 'cpu', key: Optional[str] = None,
                 stem: Optional[str] = None):
        super().__init__(checkpoint, prefix, map_location)
        self.key = key
        self.stem = None if stem is None else check_stem(stem)

    def __call__(self, module: nn.Module) -> None:
        found = [*backbones(module)]
        if not found:
            for name, value in (('key', self.key), ('stem', self.stem)):
                if value is not None:
                    raise ValueError(f'init_cfg: {name}={value!r} is for modules with a SLaK backbone, which {type(module).__name__} '
                                     'has not.')
            return super().__call__(module)
        if len(found) > 1:
            raise CheckpointError(f'{self.checkpoint}: {type(module).__name__} has {len(found)} SLaKs, {", ".join(found)}, of which '
                                  'init_cfg would load one. Nothing was loaded. Give each backbone its own init_cfg.')
        with named(self.checkpoint):
            self._load(module, found[0])
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _load(self, module: nn.Module, backbone: str) -> None:
        state_dict = convert_state_dict(select_state_dict(load_file(self.checkpoint, self.map_location), self.key), self.prefix)
        if not backbone:
            state_dict = {name: value for name, value in state_dict.items() if name.startswith('backbone.')}
        names = move(state_dict, 'backbone.', f'{backbone}.' if backbone else '')
        state_dict = {names[name]: value for name, value in state_dict.items()}
        own = module.state_dict()
        self._adapt_stem(state_dict, own, f'{backbone}.{STEM}' if backbone else STEM)
        wrong = [name for name, value in state_dict.items()
                 if name in own and not name.startswith(f'{backbone}.') and own[name].shape != value.shape]
        if backbone and wrong:
            raise CheckpointError(f'{wrong[0]} is {tuple(state_dict[wrong[0]].shape)} in the file and {tuple(own[wrong[0]].shape)} in '
                                  "the model; nothing was loaded. Set the head's config to fit, or load the file by the backbone's "
                                  'init_cfg alone.')
        missing, unused = module.load_state_dict(state_dict, strict=False)
        missing = [name for name in missing if not name.endswith('num_batches_tracked')]
        print_log(
            f'Loaded {len(own) - len(missing)} of {len(own)} tensors from {self.checkpoint}; '
            f'left at their initial value: {_summary(missing)}; in the file but not used: {_summary(unused)}.',
            logger='current')

    def _adapt_stem(self, state_dict: Dict[str, Tensor], own: Dict[str, Tensor], name: str) -> None:
        theirs, ours = state_dict[name], own[name]
        if self.stem is None or theirs.ndim != 4 or theirs.shape[1] == ours.shape[1]:
            return
        if theirs[:, :1].shape == ours[:, :1].shape:  # else it is refused below
            state_dict[name] = adapt_stem(theirs, ours, self.stem)
            print_log(f'{name} was made for {theirs.shape[1]} channels, the images have {ours.shape[1]}: stem={self.stem!r}.',
                      'current')


def _summary(names) -> str:
    return ', '.join(dict.fromkeys(name.rpartition('.')[0] for name in names)) or 'none'
