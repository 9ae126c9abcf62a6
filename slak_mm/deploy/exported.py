"""An exported file in the place of a model, for the libraries' own Runner, metrics, hooks and inferencers."""
from types import SimpleNamespace
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import InputError
from ..registry import MODELS, library_of
from .describe import classes_of, model_of
from .runtime import Runtime, fill, open_exported
from .whole import preprocessing


def exported_cfg(cfg: Config, path: str, bf16: bool = False) -> ConfigDict:
    """The ``model`` of a config, once an exported file takes the model's place.

    Args:
        cfg (Config): Of the model that was exported. It is not changed.
        path (str): Of the file.
        bf16 (bool): See :func:`slak_mm.deploy.runtime.open_exported`. Defaults to False.

    Raises:
        UserError: The runtime of the file is not installed.
        InputError: The file cannot be read, or is not of the config's model.
    """
    runtime = open_exported(path, bf16)
    _check_belongs(runtime.description, cfg, path)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if library_of(cfg) == 'mmpretrain':
        preprocessor = dict(dict(type='mmpretrain.ClsDataPreprocessor'), **preprocessor)
    return ConfigDict(type='slak_mm.ExportedModel', file=path, bf16=bf16, data_preprocessor=preprocessor)


def _check_belongs(description: Dict[str, Any], cfg: Config, path: str) -> None:
    said = model_of(cfg)
    if any(description[key] != said[key] for key in said):
        raise InputError(f'{path} is of a {description["model"]} for {description["task"]}, {cfg.filename} of a {said["model"]} for '
                         f'{said["task"]}. Give the config that it was exported with.')
    theirs, ours = description['classes'], classes_of(cfg, {})['classes']
    if theirs and ours and theirs != ours:
        differing = next((f'{a!r} and {b!r}' for a, b in zip(theirs, ours) if a != b), 'their numbers')
        raise InputError(f'{path} has {len(theirs)} classes, {cfg.filename} {len(ours)}, and they differ: {differing}. '
                         'Give the config that it was exported with.')


@MODELS.register_module()
class ExportedModel(BaseModel):
    """Predicts by an exported file, and returns what the model of the library would.

    Args:
        file (str | Runtime): Path of the file, or the file itself, open.
        data_preprocessor (dict | nn.Module): The model's own.
        bf16 (bool): Compute in bfloat16; OpenVINO alone can. Defaults to False.

    Raises:
        UserError: The runtime of the file is not installed.
        InputError: The file cannot be read, is of a backbone alone, or was exported with another pre-processing.
    """

    def __init__(self, file: Union[str, Runtime], data_preprocessor: Any, bf16: bool = False):
        super().__init__(data_preprocessor=data_preprocessor)
        self.runtime = file if isinstance(file, Runtime) else open_exported(file, bf16)
        self.description = described = self.runtime.description
        if described['task'] not in ('classification', 'segmentation', 'detection'):
            raise InputError(f'{self.runtime.path} is of a backbone alone, which predicts nothing. Export without --backbone.')
        expected = {key: described['preprocess'][key] for key in ('mean', 'std', 'swap', 'divisor', 'pad_value')}
        found = preprocessing(self.data_preprocessor)
        if expected != found:
            raise InputError(f'{self.runtime.path} was exported with the pre-processing {expected}, the config has {found}. Give the '
                             'config that it was exported with.')
        self.dataset_meta = {key: described[key] for key in ('classes', 'palette')}

    def to(self, *args: Any, **kwargs: Any) -> 'ExportedModel':
        """Stays on the CPU, where the file runs."""
        return self

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Is not used: :meth:`test_step` needs the images before they were normalized."""
        raise NotImplementedError

    @torch.no_grad()
    def test_step(self, data: Dict[str, Any]) -> List[Any]:
        """A batch of a test data loader to predictions, data samples of the library."""
        return getattr(self, f'_{self.description["task"]}')(*self.prepare(data))

    val_step = test_step

    def prepare(self, data: Dict[str, Any]) -> Tuple[List[Tensor], Any]:
        """A batch of a test data loader to images (C, H, W) as the file takes them, and the library's data samples."""
        raw = [image for image in data['inputs']]
        data = self.data_preprocessor(data, False)
        if self.description['preprocess']['inside']:
            images = [image.cpu() for image in raw]
        else:  # without padding: the file does that itself
            images = [image[:, :before.shape[1], :before.shape[2]].cpu() for image, before in zip(data['inputs'], raw)]
        images = [torch.from_numpy(fill(image.permute(1, 2, 0).numpy(), self.description)).permute(2, 0, 1) for image in images]
        return images, data['data_samples']

    def _run(self, images: Sequence[Tensor]) -> Dict[str, Tensor]:
        if any(image.shape != images[0].shape for image in images):
            raise InputError(f'{self.runtime.path}: the images of a batch have different sizes. Set test_dataloader.batch_size=1.')
        outputs = self.runtime.run(np.ascontiguousarray(torch.stack([*images]).numpy()))
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in outputs.items()}

    def _classification(self, images: List[Tensor], samples: Any) -> List[Any]:
        from mmpretrain.structures import DataSample
        outputs = self._run(images)
        scores = outputs['scores'] if 'scores' in outputs else outputs['logits'].softmax(1)
        samples = samples or [DataSample() for _ in images]
        return [sample.set_pred_score(score).set_pred_label(score.argmax(0, keepdim=True)) for sample, score in zip(samples, scores)]

    def _segmentation(self, images: List[Tensor], samples: Any) -> List[Any]:
        from mmseg.models.segmentors import BaseSegmentor
        said = self.description['segmentation']
        head = SimpleNamespace(align_corners=said['align_corners'], decode_head=SimpleNamespace(threshold=said['threshold']))
        for sample in samples:
            sample.set_metainfo(dict(padding_size=[0] * 4, img_padding_size=[0] * 4))  # the file has taken its own off
        return BaseSegmentor.postprocess_result(head, self._run(images)['scores'], samples)

    def _detection(self, images: List[Tensor], samples: Any) -> List[Any]:
        for image, sample in zip(images, samples):
            outputs = self._run([image])
            sample.pred_instances = self._instances(outputs, sample.metainfo)
        return samples

    def _instances(self, outputs: Dict[str, Tensor], meta: Dict[str, Any]) -> InstanceData:
        boxes, size = outputs['boxes'], meta['img_shape']
        boxes = torch.stack([boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)], 1)
        scale = torch.tensor(meta.get('scale_factor', (1., 1.)), dtype=boxes.dtype).repeat(2)
        found = InstanceData(bboxes=boxes / scale, scores=outputs['scores'], labels=outputs['labels'])
        if 'masks' in outputs:
            meta = dict(scale_factor=tuple(scale[:2].tolist()), ori_shape=meta['ori_shape'])
            found.masks = self._paste(outputs['masks'], boxes, outputs['labels'], meta)
        return found

    def _paste(self, masks: Tensor, boxes: Tensor, labels: Tensor, meta: Dict[str, Any]) -> Tensor:
        """By mmdet's own function, which scales the boxes that it is given."""
        from mmdet.models.roi_heads.mask_heads import FCNMaskHead
        if not len(masks):
            return torch.zeros((0, *meta['ori_shape'][:2]), dtype=torch.bool)
        head, cfg = SimpleNamespace(class_agnostic=True), ConfigDict(mask_thr_binary=self.description['detection']['mask_threshold'])
        return FCNMaskHead._predict_by_feat_single(head, masks[:, None].numpy(), boxes.clone(), labels, meta, cfg, rescale=True,
                                                   activate_map=True)
