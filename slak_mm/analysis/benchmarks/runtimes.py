"""One network in each of the programs that run it."""
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Dict

import torch

from ...models import SLaK
from .. import networks
from ..networks import MERGED, OURS, inference_case
from ..throughput import interleaved
from .result import Result, medians_of


def runtimes(args: SimpleNamespace) -> Result:
    """inference by torch, as it is, merged and merged in bf16, and of the exported file by onnxruntime and OpenVINO"""
    from ...deploy.export import export
    from ...deploy.runtime import OnnxRuntime, OpenVINO
    from ...deploy.whole import Features, Whole
    from ...deploy.write import to_openvino
    model = networks.slak(SLaK.arch_settings[args.arch]).eval().backbone
    merged, padded = deepcopy(model), deepcopy(model)
    merged.switch_to_deploy()
    padded.switch_to_deploy(16)
    seconds: Dict[str, Any] = {}
    ratios: Dict[str, float] = {}
    throughput: Dict[str, float] = {}
    for batch, size in args.runs:
        described: Dict[str, Any] = dict(
            task='features', outputs=['stage3'],
            input=dict(name='images', channels=3, dtype='float32', size=[size, size], min_size=[32, 32], batch=None),
            preprocess=dict(inside=False, mean=None, std=None, swap=False))
        content = export(Whole(Features(padded), torch.nn.Identity()), described).SerializeToString()
        images = torch.randn(batch, 3, size, size)
        bf16 = torch.autocast('cpu', torch.bfloat16)(inference_case(merged, images))
        files: Dict[str, Any] = {'onnxruntime': OnnxRuntime('benchmark', content, args.threads)}
        for name, half in (('OpenVINO', False), ('OpenVINO, bf16', True)):
            files[name] = OpenVINO('benchmark', to_openvino(content, described), args.threads, half)
        cases: Dict[str, Callable[[], object]] = {OURS: inference_case(model, images), MERGED: inference_case(merged, images),
                                                  f'{MERGED}, bf16': bf16}
        cases.update({name: partial(file.run, images.numpy()) for name, file in files.items()})
        run = f'batch {batch} at {size}x{size}'
        samples = interleaved({f'{name}, {run}': case for name, case in cases.items()}, args.repeats)
        medians = medians_of(samples)
        seconds.update(samples)
        throughput.update({name: batch / value for name, value in medians.items()})
        ratios.update({f'{name} / {MERGED}, {run}': medians[f'{name}, {run}'] / medians[f'{MERGED}, {run}'] for name in cases
                       if name != MERGED})
    return Result(seconds, ratios, {'images/s': throughput})
