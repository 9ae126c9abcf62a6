from typing import Any, Optional, Sequence

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.visualization.vis_backend import MLflowVisBackend
from torch.distributed.fsdp import FullyShardedDataParallel

from ..errors import InputError
from ..registry import HOOKS
from ..sparsity import DynamicSparsity
from .mask_pictures import PALETTE, Snapshot, canvas, read_masks, select_layers, short_name


@HOOKS.register_module()
class MaskPictureHook(Hook):
    """Pictures of masks while they are trained, in whatever the visualizer writes to: TensorBoard, Weights & Biases, MLflow, files.

    One picture for each layer, ``masks_LAYER``: its first kernels, as ``tools/visualize_masks.py`` draws them. Dark is
    active, orange was active and is no more, light never was. The curves of density, of the share ever active and of the adaptation
    rate are logged by :class:`slak_mm.SparsityHook` itself.

    Args:
        interval (int, optional): Optimizer steps between two pictures. Defaults to None: after each adaptation.
        layers (Sequence[str]): Parts of the names of depthwise layers. Defaults to (): those of the first block that is sparse.
        kernels (int): Of each layer. Defaults to 8.
        scale (int): Pixels of the picture for each weight, up and across. Defaults to 4.

    Raises:
        ValueError: A number below 1.
        InputError: There is no SparsityHook, no such layer, or training is sharded (FSDP).
    """

    priority = 'LOW'

    def __init__(self, interval: Optional[int] = None, layers: Sequence[str] = (), kernels: int = 8, scale: int = 4):
        for name, value in (('interval', interval), ('kernels', kernels), ('scale', scale)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f'{name} must be an integer from 1, got {value!r}.')
        self.interval, self.layers, self.kernels, self.scale = interval, layers, kernels, scale
        self._drawn = -1

    def before_train(self, runner: Any) -> None:
        """Finds the masks, and draws them as they are at first."""
        found = [hook.sparsity for hook in runner.hooks if isinstance(getattr(hook, 'sparsity', None), DynamicSparsity)]
        if not found:
            raise InputError('MaskPictureHook draws the masks of slak_mm.SparsityHook, which custom_hooks has not. Add it, or leave '
                             'this one out.')
        if isinstance(runner.model, FullyShardedDataParallel):
            raise InputError('MaskPictureHook does not work under FSDP, which spreads the masks over the processes. Leave it out.')
        self._sparsity: DynamicSparsity = found[0]
        self._draw(runner, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the masks if it is time."""
        steps = self._sparsity.steps
        due = self._sparsity.schedule.due(steps) if self.interval is None else steps % self.interval == 0
        if due and steps != self._drawn:
            self._draw(runner, runner.iter + 1)

    @master_only
    def _draw(self, runner: Any, iteration: int) -> None:
        self._drawn = self._sparsity.steps
        layers = read_masks(self._sparsity.state_dict())
        for name in select_layers(Snapshot(None, self._drawn, layers), self.layers):
            title, picture = f'masks_{short_name(name)}', self._picture(layers[name])
            for backend in runner.visualizer._vis_backends.values():
                # mlflow takes the format from the name, and knows no steps of a picture
                own = f'{title}_{iteration}.png' if isinstance(backend, MLflowVisBackend) else title
                backend.add_image(own, picture, iteration)

    def _picture(self, layer: np.ndarray) -> np.ndarray:
        """(H, W, 3), uint8, RGB, of a depthwise layer (C, 1, kh, kw): wide kernels below each other, others side by side."""
        kernels = [kernel[0] for kernel in layer[:self.kernels]]
        picture = PALETTE[canvas([[kernel] for kernel in kernels] if layer.shape[3] > layer.shape[2] else [kernels], gap=1)]
        return picture.repeat(self.scale, 0).repeat(self.scale, 1)
