"""Knowledge distillation: a model that learns from its labels and from a teacher that does not change."""
from contextlib import ExitStack
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..errors import InputError
from ..registry import MODELS


def _check_classes(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise InputError(f'The logits of the student are {tuple(student.shape)}, those of the teacher {tuple(teacher.shape)}; both '
                         'must be (N, classes), of the same classes. For a teacher of other classes use slak_mm.FDLoss.')


def _hidden_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Without the logits of the labels (N, 1): (N, C - 1)."""
    return logits[torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels, False)].view(len(logits), -1)


@MODELS.register_module()
class KDLoss(nn.Module):
    """Cross-entropy with a softened teacher (Hinton et al., 2015): ``weight * T^2 * KL(softmax(t / T) || softmax(s / T))``.

    Args:
        temperature (float): T. Defaults to 1.
        weight (float): Of this loss. Defaults to 1. SLaK's authors add it with .1 to .9 times the cross-entropy.
    """
    name = 'loss_kd'
    of_logits = True

    def __init__(self, temperature: float = 1., weight: float = 1.):
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Of logits (N, C) of student and teacher, and labels (N,), which it does not use.

        Raises:
            InputError: The classes differ in number.
        """
        _check_classes(student, teacher)
        softened = [(logits.float() / self.temperature).log_softmax(1) for logits in (student, teacher)]
        divergence = F.kl_div(softened[0], softened[1], reduction='batchmean', log_target=True)
        return self.weight * self.temperature**2 * divergence


@MODELS.register_module()
class NKDLoss(nn.Module):
    """Normalized knowledge distillation (Yang et al., Rethinking Knowledge Distillation via Cross-Entropy, equation 9).

    With probabilities s of the student and t of the teacher, and the label y: ``-t_y log s_y``, and ``gamma * T^2`` times the
    cross-entropy of the other classes, whose softened probabilities are normalized to 1.

    Args:
        temperature (float): T, of the other classes. Defaults to 1.
        gamma (float): Weight of the other classes. Defaults to 1., as SLaK's authors have it; the paper of the loss has 1.5.
        weight (float): Of this loss. Defaults to 1.
    """
    name = 'loss_nkd'
    of_logits = True

    def __init__(self, temperature: float = 1., gamma: float = 1., weight: float = 1.):
        super().__init__()
        self.temperature, self.gamma, self.weight = temperature, gamma, weight

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Of logits (N, C) of student and teacher, and labels (N,).

        Raises:
            InputError: The classes differ in number.
        """
        _check_classes(student, teacher)
        student, teacher, labels = student.float(), teacher.float(), labels[:, None]
        of_label = -(teacher.softmax(1).gather(1, labels) * student.log_softmax(1).gather(1, labels)).mean()
        others = [_hidden_classes(logits, labels) / self.temperature for logits in (student, teacher)]
        of_others = -(others[1].softmax(1) * others[0].log_softmax(1)).sum(1).mean()
        return self.weight * (of_label + self.gamma * self.temperature**2 * of_others)


@MODELS.register_module()
class FDLoss(nn.Module):
    """Feature distillation (Wei et al., 2022): smooth L1 between a map of the student, projected, and one of the teacher, whitened.

    Maps of another size are resized to the teacher's.

    Args:
        student (str): Part of the student that gives its map, as ``'backbone.stages.3'``; of several maps it is the last.
        teacher (str, optional): Part of the teacher. Defaults to None: ``student``.
        channels (tuple[int, int], optional): Channels of the student's and of the teacher's map, between which a 1x1 convolution then
            projects. Defaults to None: they are equal, and nothing is projected.
        whiten (bool): Normalize the teacher's map over channels and pixels, without weights. Defaults to True.
        beta (float): Where smooth L1 turns from square to linear. Defaults to 2.
        weight (float): Of this loss. Defaults to 1, as in the code of SLaK's authors; their scripts have 3e-5.
    """
    name = 'loss_fd'
    of_logits = False

    def __init__(self, student: str, teacher: Optional[str] = None, channels: Optional[Sequence[int]] = None, whiten: bool = True,
                 beta: float = 2., weight: float = 1.):
        super().__init__()
        self.student, self.teacher, self.channels = student, teacher or student, channels and tuple(channels)
        self.project = nn.Identity() if channels is None else nn.Conv2d(channels[0], channels[1], 1)
        self.whiten, self.beta, self.weight = whiten, beta, weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of maps (N, C, H, W) of the student and (N, C', H', W') of the teacher.

        Raises:
            InputError: Their channels differ after the projection, or they are no maps.
        """
        channels = self.channels or (student.shape[1], ) * 2
        if student.ndim != 4 or teacher.ndim != 4 or channels != (student.shape[1], teacher.shape[1]):
            raise InputError(f'FDLoss: the student\'s {self.student} gives {tuple(student.shape)} and the teacher\'s {self.teacher} '
                             f'{tuple(teacher.shape)}; both must be (N, C, H, W). If their channels differ, set '
                             f'channels=({student.shape[1]}, {teacher.shape[1]}).')
        projected, teacher = self.project(student), teacher.float()
        if self.whiten:
            teacher = F.layer_norm(teacher, teacher.shape[1:])
        if projected.shape[2:] != teacher.shape[2:]:
            projected = F.interpolate(projected, teacher.shape[2:], mode='bilinear', align_corners=False)
        return self.weight * F.smooth_l1_loss(projected.float(), teacher, beta=self.beta)


class _Unlisted:
    """Holds a module that is no part of the model that has it: neither saved, averaged, pruned, trained nor copied with it."""

    def __init__(self):
        self.module: Optional[nn.Module] = None

    def __deepcopy__(self, memo: dict) -> '_Unlisted':
        return self


def _watch(stack: ExitStack, model: nn.Module, parts: Sequence[str], who: str) -> Dict[str, Any]:
    """A dict that gets the outputs of parts of a model, by their names, until the stack is closed."""
    found: Dict[str, Any] = {}
    modules = dict(model.named_modules())
    for part in parts:
        if part not in modules:
            names = ', '.join(name for name in modules if name and name.count('.') < 3)
            raise InputError(f'The {who} has no part {part!r}. It has: {names}')

        def keep(module: nn.Module, args: Any, out: Any, part: str = part) -> None:
            found[part] = out[-1] if isinstance(out, (tuple, list)) else out

        stack.callback(modules[part].register_forward_hook(keep).remove)
    return found


@MODELS.register_module()
class Distilled:
    """A student that also learns from the features of a teacher: any model of mmpretrain, mmdet or mmsegmentation.

    What is built is the student itself, with one more method, :meth:`loss`; so its parts and the keys of its checkpoints have the
    names that they have without a teacher, and its checkpoints serve its own config. The teacher stays outside: it is built, with
    the weights of its ``init_cfg``, when training starts, is in evaluation throughout, and is not saved. A test needs no teacher.

    Both see the same images: normalized, mixed and cut as the student's ``data_preprocessor`` does it.

    Args:
        student (dict): Config of the model to train.
        teacher (dict): Config of a trained model, with ``init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL)``, or with that in
            its backbone.
        losses (list[dict]): Of type ``FDLoss``; :class:`DistilledClassifier` has others.
        task_weight (float): Of the student's own losses, the cross-entropy among them. Defaults to 1.
        data_preprocessor (dict, optional): The student's. The Runner fills this in. Defaults to None.

    Raises:
        InputError: The teacher has no weights to load; there are no losses, or ones that do not fit; a part is unknown.
    """
    of_logits = False
    outside = ('teacher', )  # in the config, and no part of the model
    task_weight: float
    distillation: nn.ModuleList
    _teacher: _Unlisted
    _teacher_cfg: Tuple[Union[dict, nn.Module], Optional[str]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not Distilled and cls is not DistilledClassifier:  # a copy
            return object.__new__(cls)
        return cls._build(*args, **kwargs)

    def __init__(self, student: Optional[dict] = None, teacher: Any = None, losses: Sequence[dict] = (), task_weight: float = 1.,
                 data_preprocessor: Optional[dict] = None):
        """Nothing is left to do: the student has been built."""

    @classmethod
    def _build(cls, student: dict, teacher: Union[dict, nn.Module], losses: Sequence[dict], task_weight: float = 1.,
               data_preprocessor: Optional[dict] = None) -> BaseModel:
        if isinstance(teacher, dict) and not (teacher.get('init_cfg') or teacher.get('backbone', {}).get('init_cfg')):
            raise InputError("The teacher has random weights: set teacher=dict(..., init_cfg=dict(type='Pretrained', "
                             "checkpoint='FILE.pth')).")
        if not losses:
            raise InputError(f'{cls.__name__} needs losses, as losses=[dict(type=\'slak_mm.NKDLoss\')].')
        options = {} if data_preprocessor is None else dict(data_preprocessor=dict(data_preprocessor))
        model = MMENGINE_MODELS.build(dict(student, **options))
        built = nn.ModuleList(MMENGINE_MODELS.build(dict(loss)) for loss in losses)
        wrong = [type(loss).__name__ for loss in built if loss.of_logits and not cls.of_logits]
        if wrong:
            raise InputError(f'{", ".join(wrong)} compares the logits of classifiers: use slak_mm.DistilledClassifier for them, and '
                             'slak_mm.FDLoss for other models.')
        # as torch's parametrizations do: the object stays the student, with the methods of this class before its own
        model.__class__ = type(f'Distilled{type(model).__name__}', (cls, type(model)), {})
        model.distillation = built
        scope = DefaultScope.get_current_instance()
        model.task_weight, model._teacher_cfg, model._teacher = task_weight, (teacher, scope and scope.scope_name), _Unlisted()
        return model

    def init_weights(self) -> None:
        """The student's weights, and the teacher's."""
        super().init_weights()  # type: ignore[misc]
        self._get_teacher(next(self.parameters()).device)  # type: ignore[attr-defined]

    def _get_teacher(self, device: torch.device) -> nn.Module:
        """The teacher, on a device; built the first time."""
        kept: Any = self._teacher
        if kept.module is None:
            cfg, scope = self._teacher_cfg
            if isinstance(cfg, nn.Module):
                kept.module = cfg
            else:
                with DefaultScope.overwrite_default_scope(scope):
                    kept.module = MMENGINE_MODELS.build(dict(cfg))
                    kept.module.init_weights()
            kept.module.eval()  # some models of the libraries return nothing
            kept.module.requires_grad_(False)
            self._check_normalization(kept.module)
        return kept.module.to(device)

    def _check_normalization(self, teacher: nn.Module) -> None:
        mine, theirs = (getattr(model, 'data_preprocessor', None) for model in (self, teacher))
        for name in ('mean', 'std'):
            found = (getattr(preprocessor, name, None) for preprocessor in (theirs, mine))
            wanted, given = (None if values is None else [round(value, 3) for value in values.flatten().tolist()] for values in found)
            if wanted is not None and wanted != given:
                raise InputError(f"The teacher's data_preprocessor has {name}={wanted}, the student's {given}. Both see the images as "
                                 "the student's makes them: give it the teacher's numbers. To train with those of the student all "
                                 'the same, leave data_preprocessor out of teacher.')

    def loss(self, inputs: Tensor, data_samples: List[Any], *args: Any, **kwargs: Any) -> Dict[str, Any]:
        """The losses of the student, times ``task_weight``, and those of distillation, of images (N, 3, H, W).

        What mmpretrain's heads call ``loss`` is ``loss_task`` here: in the log, ``loss`` is the sum of all.
        """
        teacher: Any = self._get_teacher(inputs.device)
        losses: Any = self.distillation
        with ExitStack() as stack:
            mine = _watch(stack, self, [part for part, _ in self._parts()], 'student')  # type: ignore[arg-type]
            theirs = _watch(stack, teacher, [part for _, part in self._parts()], 'teacher')
            own = super().loss(inputs, data_samples, *args, **kwargs)  # type: ignore[misc]
            with torch.no_grad():
                if self.of_logits:
                    teacher(inputs, mode='tensor')
                else:
                    teacher.extract_feat(inputs)
        found = {'loss_task' if name == 'loss' else name: _scaled(value, self.task_weight) if 'loss' in name else value
                 for name, value in own.items()}
        for i, (loss, (part, other)) in enumerate(zip(losses, self._parts())):
            name = loss.name if loss.name not in found else f'{loss.name}_{i}'
            extra = (self._labels(data_samples), ) if loss.of_logits else ()
            found[name] = loss(mine[part], theirs[other], *extra)
        return found

    def _parts(self) -> List[Tuple[str, str]]:
        """For each loss, the parts of student and teacher whose outputs it compares."""
        losses: Any = self.distillation
        return [('head', 'head') if loss.of_logits else (loss.student, loss.teacher) for loss in losses]

    @staticmethod
    def _labels(data_samples: List[Any]) -> Tensor:
        """The labels (N,): of mixed images, those of the larger share, as SLaK's authors take them."""
        if 'gt_score' in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples]).argmax(1)
        return torch.cat([sample.gt_label for sample in data_samples])


@MODELS.register_module()
class DistilledClassifier(Distilled):
    """A classifier of mmpretrain that also learns from the logits of a teacher: see :class:`Distilled`.

    "Are Large Kernels Better Teachers than Transformers for ConvNets?" (ICML 2023): small kernels learn from SLaK.

    Args:
        student, teacher, task_weight, data_preprocessor: See :class:`Distilled`.
        losses (list[dict]): Of types ``NKDLoss``, ``KDLoss`` and ``FDLoss``.
    """
    of_logits = True


def _scaled(value: Any, factor: float) -> Any:
    return [one * factor for one in value] if isinstance(value, (list, tuple)) else value * factor
