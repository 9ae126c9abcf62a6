"""What the model is given: batches, as the loader collates them and the model's preprocessor makes them one tensor."""
from collections import Counter
from copy import deepcopy
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from ..errors import UserError, in_one_line
from ..models import SLaK
from .findings import ERROR, FINE, WARNING, Finding, listed
from .images import ignored_labels
from .items import same_random
from .split import Split, classes_of, isolate, source_of, transforms_of

MOST = 8  # images of the batch that is made


def check_batch(split: Split) -> Iterator[Finding]:
    """Makes a batch of at most ``MOST`` images, and hands it to the model's data preprocessor.

    Images of a batch must become one tensor, with the channels that the backbone takes; the value that pads label maps must be one
    that the heads ignore.
    """
    source = source_of(split.datasets[0]) if split.datasets else type(split.loader.dataset).__name__
    size = min(getattr(split.loader, 'batch_size', None) or 1, MOST, len(split.loader.dataset))
    if any(type(transform).__name__ == 'TestTimeAug' for dataset in split.datasets for transform in transforms_of(dataset) or ()):
        return  # each item is several images, for a model that is wrapped
    with same_random():
        dataset = isolate(split.loader.dataset)
        try:
            items = [dataset[i] for i in range(size)]
        except (UserError, OSError):
            raise
        except Exception as error:  # of a wrapper's own transforms
            yield Finding(ERROR, f'{source}: {type(dataset).__name__} gives no items: {in_one_line(error)}.')
            return
        try:
            batch = split.loader.collate_fn(items)
        except (RuntimeError, TypeError, ValueError) as error:
            yield Finding(ERROR, f'{source}: {size} items of the {split.name} pipeline do not make a batch: {in_one_line(error)}. '
                                 f'Their images are {listed(_shapes(items))}. End the pipeline with a crop or a Resize to one size.')
            return
        preprocessor = getattr(split.model, 'data_preprocessor', None)
        if preprocessor is None:
            return
        try:
            batch = deepcopy(preprocessor)(batch, split.training)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            yield Finding(ERROR, f'{source}: model.data_preprocessor cannot take {size} items of the {split.name} pipeline: '
                                 f'{in_one_line(error)}. Their images are {listed(_shapes(items))} (channels, height, width). '
                                 'Compare its mean, std, size and num_classes with them.')
            return
        except (AttributeError, LookupError):  # it counts iterations, which have not begun, or takes another kind of batch
            return
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    if isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
        yield from _check_inputs(split, source, inputs)
        if split.training:
            yield from _check_padding(split, source, items, batch)
            yield from _check_scores(split, source, batch)


def _check_scores(split: Split, source: str, batch: dict) -> Iterator[Finding]:
    """Mixed labels, as mixup and CutMix make them, have a number for each class that the preprocessor knows."""
    score: Any = getattr((batch.get('data_samples') or [None])[0], 'gt_score', None)
    wrong = [head for head in split.heads if score is not None and len(score) != head.num_classes]
    if wrong:
        yield Finding(ERROR, f'{source}: data_preprocessor.num_classes is {len(score)}, {wrong[0].name} tells {wrong[0].num_classes} '
                             'apart: with mixup or CutMix they must be equal.')


def _shapes(items: List[Any]) -> List[str]:
    inputs = [item['inputs'] for item in items if isinstance(item, dict) and isinstance(item.get('inputs'), torch.Tensor)]
    return sorted({'x'.join(map(str, each.shape)) for each in inputs})


def _check_inputs(split: Split, source: str, inputs: torch.Tensor) -> Iterator[Finding]:
    backbone: Any = getattr(split.model, 'backbone', None)
    if not isinstance(backbone, SLaK):
        return
    stem: Any = backbone.downsample_layers[0]
    own, given = stem[0].in_channels, inputs.shape[1]
    if own == given:
        yield Finding(FINE, f'{source}: images of {given} channels, as the backbone takes them.')
    else:
        yield Finding(ERROR, f'{source}: images have {given} channels as the pipeline reads and the preprocessor normalizes them, the '
                             f'backbone takes {own}. Set model.backbone.in_channels={given}, and mean and std of data_preprocessor, '
                             'or color_type of LoadImageFromFile.')
    if min(inputs.shape[2:]) < backbone.min_size:
        yield Finding(ERROR, f'{source}: images are {inputs.shape[2]}x{inputs.shape[3]}, height by width, as the pipeline and the '
                             f'preprocessor make them; SLaK needs at least {backbone.min_size} pixels a side. Add a Resize to the '
                             'pipeline, or pad_size_divisor=32 to data_preprocessor.')


def _check_padding(split: Split, source: str, items: List[Any], batch: dict) -> Iterator[Finding]:
    """Label maps of images that are smaller than the batch are filled up with ``seg_pad_val``."""
    pad = getattr(split.model.data_preprocessor, 'seg_pad_val', None)
    shape = batch['inputs'].shape[-2:]
    if pad is None or not split.heads or all(item['inputs'].shape[-2:] == shape for item in items):
        return
    datasets = split.datasets
    ignored = ignored_labels(split, datasets[0]) if datasets else {255}
    if pad not in ignored:
        yield Finding(ERROR, f'{source}: images are padded to {shape[0]}x{shape[1]}, and their label maps with {pad}, which is not '
                             f'to be ignored. Set model.data_preprocessor.seg_pad_val={min(ignored)}, as ignore_index of the heads.')


def last_batch(split: Split) -> Optional[int]:
    """Number of images of the smallest batch of an epoch, for one process; None if the loader cannot tell, or has no epochs."""
    sampler, size = getattr(split.loader, 'sampler', None), getattr(split.loader, 'batch_size', None)
    batch_sampler = getattr(split.loader, 'batch_sampler', None)
    size = size or getattr(batch_sampler, 'batch_size', None)
    sampler = getattr(batch_sampler, 'sampler', sampler)
    if sampler is None or not size or isinstance(sampler, InfiniteSampler) or not hasattr(sampler, '__len__'):
        return size if isinstance(sampler, InfiniteSampler) else None
    drops = getattr(batch_sampler, 'drop_last', getattr(split.loader, 'drop_last', False))
    if split.max_iters is not None and split.max_iters <= len(sampler) // size:
        return size  # the end of the first epoch is not reached
    return size if drops or len(sampler) % size == 0 else len(sampler) % size


def check_last_batch(split: Split) -> Iterator[Finding]:
    """Whether an epoch has a batch, and whether one of a single image is left for a batch norm that needs two.

    If there is such a batch, the model is asked: one image goes through it. What that changes, batch-norm statistics, is put back.
    """
    if not split.training:
        return
    number, size = len(split.loader.dataset), getattr(split.loader, 'batch_size', None)
    if hasattr(split.loader.dataset, '__len__') and not isinstance(split.loader.sampler, InfiniteSampler) and not len(split.loader):
        yield Finding(ERROR, f'{number} images do not make one batch of {size or "this size"}, and drop_last=True drops them: '
                             'nothing would be trained. Set a smaller train_dataloader.batch_size, or drop_last=False.')
        return
    if last_batch(split) != 1:
        return
    norms = _norms_that_need_two(split)
    if norms:
        what = f'batches of {size}' if size == 1 else f'{number} images in batches of {size} leave one alone'
        remedy = 'train_dataloader.batch_size=2' if size == 1 else 'train_dataloader.drop_last=True'
        yield Finding(ERROR, f'{what}, and {norms} needs two: it has one value of each channel. Set {remedy}.')
    else:
        yield Finding(FINE, 'a batch of one image, which each norm of the model can take.')


def _norms_that_need_two(split: Split) -> str:
    """Which batch norm stops at a batch of one image, as ``the batch norm decode_head.psp_modules.0.1.bn``; empty if none does."""
    model: Any = split.model
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not norms or (get_world_size() > 1 and any(isinstance(module, SyncBatchNorm) for module in norms.values())):
        return ''  # those of several processes take the images of all
    training, buffers = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    entered: List[str] = []
    hooks = [module.register_forward_pre_hook(lambda module, args, name=name: entered.append(name)) for name, module in norms.items()]
    try:
        with same_random(), torch.random.fork_rng(enabled=torch.cuda.is_available()), torch.no_grad():
            batch = split.loader.collate_fn([isolate(split.loader.dataset)[0]])
            model.train()
            model._run_forward(deepcopy(model.data_preprocessor)(batch, True), mode='loss')
    except ValueError as error:
        if 'more than 1 value per channel' in str(error):
            return f'the batch norm {entered[-1]}' if entered else 'a batch norm'
    except Exception:  # it does not concern the number of images, and the run itself will show it
        pass
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, value in buffers:
            buffer.copy_(value)
        model.train(training)
    return ''


def check_metrics(split: Split) -> Iterator[Finding]:
    """What would stop an evaluation after the first epoch, or make it wrong: a metric of other images or classes than the data set."""
    for metric in split.metrics:
        name, classes = type(metric).__name__, [len(classes_of(dataset)) for dataset in split.datasets]
        images = getattr(getattr(metric, '_coco_api', None), 'imgs', None)
        if images:
            yield from _check_images(split, name, set(images))
        most = max((k for k in getattr(metric, 'topk', None) or () if isinstance(k, int)), default=0)
        fewest = min([head.num_classes for head in split.heads] + [number for number in classes if number], default=most)
        if most > fewest and split.heads:
            yield Finding(ERROR, f'{name} of {split.name}_evaluator takes the {most} best of {fewest} classes: set '
                                 f'{split.name}_evaluator.topk=(1, ).')


def _check_images(split: Split, name: str, images: set) -> Iterator[Finding]:
    missing: Dict[str, int] = Counter()
    for dataset in split.datasets:
        numbers = [dataset.get_data_info(i).get('img_id') for i in range(len(dataset))]
        missing[source_of(dataset)] += sum(number not in images for number in numbers)
        if missing[source_of(dataset)]:
            yield Finding(ERROR, f'{source_of(dataset)} has {missing[source_of(dataset)]} images that the file of {name} does not '
                                 f'have: {split.name}_evaluator.ann_file must be that of the data set.')
        elif len(images) != len(numbers):
            yield Finding(WARNING, f'{source_of(dataset)} has {len(numbers)} images, the file of {name} {len(images)}: objects in the '
                                   f'others count as not found. Compare {split.name}_evaluator.ann_file with the data set.')
        else:
            yield Finding(FINE, f'{source_of(dataset)}: {name} knows each of the {len(numbers)} images.')
