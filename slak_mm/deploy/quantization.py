"""Exported files whose products are of 8-bit numbers, and what that does to each layer. Needs nncf, or onnxruntime with onnx."""
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from .description import KEY
from .files import is_openvino
from .runtime import kept_signal_stack, open_exported

QUANTIZED = ['Conv', 'Gemm', 'MatMul']  # by onnxruntime
UNTOUCHED = ['GroupConvolution', 'Add', 'MVN', 'Multiply', 'ReduceMean']  # by nncf, which would have more than products
# whose outputs are compared: of OpenVINO's after the bias, since nncf moves offsets and scales to what follows
COMPARED = dict(onnx=('Conv', 'Gemm', 'Add'), openvino=('Add', ))
Images = Sequence[np.ndarray]
Layers = Tuple[Dict[str, str], Callable[[np.ndarray], Sequence[np.ndarray]]]  # key to name; image to the output of each


def quantize(path: str, images: Images, out: str) -> None:
    """Writes a file of 8-bit products, calibrated on images: ranges of weights per output channel, of maps per tensor.

    In an .xml, depthwise convolutions stay as they are: OpenVINO's are slower in 8 bits.

    Args:
        path (str): An exported file, .onnx or .xml.
        images (Sequence[ndarray]): What the file takes, one each: (1, C, H, W).
        out (str): File to write, of the same suffix. It keeps the description.
    """
    (_quantize_openvino if is_openvino(path) else _quantize_onnx)(path, images, out)


def _quantize_openvino(path: str, images: Images, out: str) -> None:
    import nncf
    import openvino
    model = openvino.Core().read_model(path)
    _add_biases(model)
    left = nncf.IgnoredScope(types=UNTOUCHED, validate=False)
    with kept_signal_stack():
        quantized = nncf.quantize(model, nncf.Dataset(list(images)), subset_size=len(images), ignored_scope=left)
    if model.has_rt_info([KEY]):
        quantized.set_rt_info(model.get_rt_info([KEY]).value, [KEY])
    openvino.save_model(quantized, out, compress_to_fp16=False)


def _add_biases(model: Any) -> None:
    """Gives each convolution a bias that has none, in place, too small to change a sum.

    Without, OpenVINO 2026.4 loses the scale of some 8-bit convolutions with an fp32 output, which is then near zero: those before
    SLaK's depthwise ones, or of an FPN's last map. With a bias none was seen.
    """
    from openvino import opset13
    for node in [node for node in model.get_ops() if node.get_type_name() == 'Convolution']:
        targets = list(node.output(0).get_target_inputs())
        after = targets[0].get_node()
        if len(targets) == 1 and after.get_type_name() == 'Add' and 'Constant' in {
                value.get_node().get_type_name() for value in after.input_values()}:
            continue
        channels, rank = node.input_value(1).get_shape()[0], len(node.input_value(1).get_shape())
        bias = opset13.add(node, np.full((1, channels, *[1] * (rank - 2)), 1e-30, np.float32))
        bias.set_friendly_name(f'{node.get_friendly_name()}/bias')
        for target in targets:
            target.replace_source_output(bias.output(0))
    model.validate_nodes_and_infer_types()


def _quantize_onnx(path: str, images: Images, out: str) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):

        def __init__(self):
            self.left = iter(images)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else dict(images=image)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, 'prepared.onnx'))
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, out, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                                     activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                                     op_types_to_quantize=QUANTIZED)


def layer_errors(path: str, quantized: str, images: Images) -> Dict[str, float]:
    """How far each layer's output is from that of the file before, relative to it: the norm of the difference over the norm.

    Args:
        path (str): The file before.
        quantized (str): And after :func:`quantize`.
        images (Sequence[ndarray]): What both take.

    Returns:
        dict[str, float]: By the name of the layer, or of the sum that its bias is added in, the largest error first. Layers that
        see regions of an image are left out: a detector proposes others, or in another order.
    """
    open_layers = _openvino_layers if is_openvino(path) else _onnx_layers
    (names, run_before), (others, run_after) = open_layers(path), open_layers(quantized)
    shared = [key for key in names if key in others]
    proposes = open_exported(path).description['task'] == 'detection'
    sums = np.zeros((2, len(shared)))
    for image in images:
        before, after = dict(zip(names, run_before(image))), dict(zip(others, run_after(image)))
        for i, key in enumerate(shared):
            if before[key].shape == after[key].shape and (not proposes or before[key].shape[:1] == image.shape[:1]):
                sums[:, i] += [np.square(each, dtype=np.float64).sum() for each in (before[key] - after[key], before[key])]
    errors = np.sqrt(sums[0] / np.maximum(sums[1], 1e-30))
    return {names[shared[i]]: float(errors[i]) for i in np.argsort(-errors, kind='stable') if sums[1, i]}


def _openvino_layers(path: str) -> Layers:
    import openvino
    core = openvino.Core()
    model = core.read_model(path)
    kept = len(model.outputs)
    names = [node.get_friendly_name() for node in model.get_ops() if node.get_type_name() in COMPARED['openvino']]
    model.add_outputs([(name, 0) for name in names])
    with kept_signal_stack():
        compiled = core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    return {name: name for name in names}, lambda image: [*compiled(image).values()][kept:]


def _onnx_layers(path: str) -> Layers:
    import onnx
    import onnxruntime
    model = onnx.load(path)
    names = {node.output[0]: node.name or node.output[0] for node in model.graph.node if node.op_type in COMPARED['onnx']}
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=key) for key in names if key not in there)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return names, lambda image: session.run([*names], {session.get_inputs()[0].name: image})


def compare_speed(paths: Sequence[str], image: np.ndarray, threads: int = 0, seconds: float = 10.) -> List[float]:
    """Milliseconds that an image takes in each file: the median of calls that take turns.

    Args:
        paths (Sequence[str]): Of exported files.
        image (ndarray): What they take: (1, C, H, W).
        threads (int): Of the runtime. Defaults to 0: its own choice.
        seconds (float): For all of it. Defaults to 10.
    """
    runs = [open_exported(path, threads=threads).run for path in paths]
    durations: List[List[float]] = [[] for _ in runs]
    for run in runs:
        run(image)
    end = perf_counter() + seconds
    while perf_counter() < end or len(durations[0]) < 3:
        for run, own in zip(runs, durations):
            begin = perf_counter()
            run(image)
            own.append(1000 * (perf_counter() - begin))
    return [median(own) for own in durations]
