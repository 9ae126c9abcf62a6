"""From a config and a checkpoint to a file that predicts the same, or to none."""
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from mmengine.config import Config

from ..errors import InputError
from ..models.build import quiet
from .description import KEY, SUFFIXES, is_exported, pack
from .export import Options, build, check_torch, export, whole_model
from .runtime import OnnxRuntime, OpenVINO, Runtime
from .verify import Agreement, compare


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
        raise InputError(f'{path}: the name of the file says the format: {" or ".join(SUFFIXES)} (OpenVINO).')


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
        path (Path): ``.onnx``, or ``.xml`` for OpenVINO's format, whose ``.bin`` is put next to it.
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
    content = export(whole, description, options.opset).SerializeToString()
    runtimes: List[Runtime] = [OnnxRuntime(path, content)]
    converted = None
    if path.suffix.lower() == '.xml':
        converted = to_openvino(content, description)
        runtimes.append(OpenVINO(path, converted))
    agreements = []
    for runtime in runtimes:
        name = type(runtime).__name__.replace('Onnx', 'onnx').replace('Runtime', 'runtime')
        agreement = compare(model, runtime)
        agreement.check(name, tolerance)
        agreements.append((name, agreement))
    path.parent.mkdir(parents=True, exist_ok=True)
    if converted is None:
        path.write_bytes(content)
        return Receipt(len(content) / 1e6, description, agreements)
    import openvino
    openvino.save_model(converted, str(path), compress_to_fp16=False)
    files = path, path.with_suffix('.bin')
    return Receipt(sum(file.stat().st_size for file in files) / 1e6, description, agreements)
