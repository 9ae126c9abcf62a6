"""From a config and a checkpoint to a file that predicts the same, or to none."""
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from mmengine.config import Config

from ..errors import InputError
from ..models.build import quiet
from .description import KEY, SUFFIXES, is_exported, pack
from .export import Options, build, check_torch, export, trace, whole_model
from .files import draft_of, files_of, is_openvino
from .runtime import OnnxRuntime, OpenVINO, Runtime, open_exported
from .verify import Agreement, compare
from .whole import Whole


class Receipt(NamedTuple):
    """What was written.

    Args:
        megabytes (float): Of the file, or files.
        description (dict): See :mod:`slak_mm.deploy.description`.
        agreements (list[tuple[str, Agreement]]): Of each runtime that was compared with torch.
    """
    megabytes: float
    description: Dict[str, Any]
    agreements: List[Tuple[str, Agreement]]


def check_target(path: Path) -> None:
    """Raises an InputError if no exported file is called so."""
    if not is_exported(path):
        raise InputError(f'{path}: the name of the file says the format: {" or ".join(SUFFIXES)}.')


def to_openvino(content: bytes, description: Dict[str, Any]) -> Any:
    """OpenVINO's model of an ONNX file, with the description in its ``rt_info``."""
    import openvino
    model = openvino.convert_model(io.BytesIO(content))
    model.set_rt_info(pack(description), KEY)
    return model


def write_exported(cfg: Config, checkpoint: str, path: Path, options: Options, tolerance: float = 1e-4) -> Receipt:
    """Exports a model, compares what the file predicts with what torch does, and writes it.

    Args:
        cfg (Config): Of the model.
        checkpoint (str): Path or URL; 'none' for random weights.
        path (Path): ``.onnx``; ``.xml`` for OpenVINO's format, whose ``.bin`` is put next to it; ``.pt2`` for AOTInductor; ``.pte``
            for ExecuTorch.
        options (Options): What is wanted.
        tolerance (float): Largest difference of scores, or maps, to torch: ``Agreement.difference``. Defaults to 1e-4.

    Raises:
        UserError: The file does not predict the same; nothing was written. Or torch is too old.
        InputError: The model is of a kind that is not known.
    """
    check_torch()
    with quiet():
        model, meta = build(cfg, checkpoint, options.backbone)
    whole, description = whole_model(cfg, model, meta, options)
    if path.suffix.lower() in ('.pt2', '.pte'):
        return _write_torch(model, whole, description, path, tolerance)
    content = export(whole, description, options.opset).SerializeToString()
    runtimes: List[Runtime] = [OnnxRuntime(path, content)]
    converted = None
    if is_openvino(path):
        converted = to_openvino(content, description)
        runtimes.append(OpenVINO(path, converted))
    agreements = [_compared(model, runtime, tolerance) for runtime in runtimes]
    with draft_of(path) as draft:
        if converted is None:
            draft.write_bytes(content)
        else:
            import openvino
            openvino.save_model(converted, str(draft), compress_to_fp16=False)
        size = sum(file.stat().st_size for file in files_of(draft)) / 1e6
    return Receipt(size, description, agreements)


def _compared(model: Any, runtime: Runtime, tolerance: float) -> Tuple[str, Agreement]:
    name = type(runtime).__name__.replace('Onnx', 'onnx').replace('Runtime', 'runtime')
    agreement = compare(model, runtime)
    agreement.check(name, tolerance)
    return name, agreement


def _write_torch(model: Any, whole: Whole, description: Dict[str, Any], path: Path, tolerance: float) -> Receipt:
    from .torch_files import write_pt2, write_pte
    if description['task'] == 'detection':
        raise InputError(f'a whole detector is not exported to {path.suffix}: take .onnx or .xml, or --backbone.')
    known = description['input']
    if path.suffix.lower() == '.pte':
        if known['size'] is None:
            raise InputError('ExecuTorch plans its memory for one size: give --shape.')
        description = dict(description, input=dict(known, batch=1))
    with draft_of(path) as draft:
        with quiet():
            (write_pte if path.suffix.lower() == '.pte' else write_pt2)(trace(whole, description), description, draft)
        agreement = _compared(model, open_exported(draft), tolerance)
        size = draft.stat().st_size / 1e6
    return Receipt(size, description, [agreement])
