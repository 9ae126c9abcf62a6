from typing import Optional

from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from .file import CheckpointError, load_file, named
from .fit import backbones
from .names import convert_state_dict, move
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

    Raises:
        CheckpointError: The file is unreadable, unsafe, matches nothing, or does not fit; nothing was loaded.
    """

    def __init__(self, checkpoint: str, prefix: Optional[str] = None, map_location: str = 'cpu', key: Optional[str] = None):
        super().__init__(checkpoint, prefix, map_location)
        self.key = key

    def __call__(self, module: nn.Module) -> None:
        found = [*backbones(module)]
        if not found:
            if self.key is not None:
                raise ValueError(f"init_cfg: key={self.key!r} is for modules with a SLaK backbone, which {type(module).__name__} "
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


def _summary(names) -> str:
    return ', '.join(dict.fromkeys(name.rpartition('.')[0] for name in names)) or 'none'
