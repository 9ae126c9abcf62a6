"""One network in each of the programs that run it."""
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Callable, Dict

import numpy as np
import torch

from ...models import SLaK
from .. import networks
from ..networks import MERGED, OURS, inference_case
from ..throughput import interleaved
from .result import Result, medians_of


def runtimes(args: SimpleNamespace) -> Result:
    """inference by torch, as it is, merged, merged in bf16; of the exported file by onnxruntime, and OpenVINO in fp32, bf16, int8"""
    from ...deploy.export import export
    from ...deploy.runtime import OnnxRuntime, OpenVINO, computes_bf16
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
        for name, half in [('OpenVINO', False)] + [('OpenVINO, bf16', True)] * computes_bf16():  # imitated, it takes minutes
            files[name] = OpenVINO('benchmark', to_openvino(content, described), args.threads, half)
        if find_spec('nncf'):
            files['OpenVINO, int8'] = _int8(to_openvino(content, described), images[:1].numpy(), args.threads)
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


def _int8(model: Any, image: np.ndarray, threads: int) -> Any:
    """A model of OpenVINO with 8-bit products, calibrated on one image: speed does not depend on it."""
    import openvino

    from ...deploy.quantization import quantize
    from ...deploy.runtime import OpenVINO
    with TemporaryDirectory() as folder:
        before, after = str(Path(folder, 'fp32.xml')), str(Path(folder, 'int8.xml'))
        openvino.save_model(model, before, compress_to_fp16=False)
        quantize(before, [image], after)
        return OpenVINO(after, threads=threads)
