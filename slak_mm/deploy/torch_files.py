"""Exported files of torch itself: ``.pt2``, compiled by AOTInductor for processors like this one, and ``.pte`` of ExecuTorch, for
phones and boards, with XNNPACK. A ``.pt2`` holds machine code: open those that you trust.
"""
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np
import torch

from .description import KEY, pack
from .runtime import Runtime, unreadable


def write_pt2(program: Any, description: Dict[str, Any], path: Path) -> None:
    """Compiles a program of ``torch.export``. It needs a C++ compiler, and takes a minute."""
    from torch._inductor import aoti_compile_and_package
    aoti_compile_and_package(program, package_path=str(path), inductor_configs={'aot_inductor.metadata': {KEY: pack(description)}})


def write_pte(program: Any, description: Dict[str, Any], path: Path) -> None:
    """Lowers a program of ``torch.export`` to XNNPACK, as far as it can. The description is a method that returns its bytes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    text = torch.tensor(list(pack(description).encode()), dtype=torch.uint8)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods={KEY: text})
    path.write_bytes(lowered.to_executorch().buffer)


class AOTInductor(Runtime):
    """A file of AOTInductor.

    Args:
        path (str | Path): Of the ``.pt2``.
    """

    def __init__(self, path: Union[str, Path]):
        from torch._inductor import aoti_load_package
        try:
            self.model = aoti_load_package(str(path))
        except Exception as error:  # of several kinds
            raise unreadable(path, error) from error
        super().__init__(path, self.model.get_metadata().get(KEY, ''))

    def _run(self, images: np.ndarray) -> Any:
        return [value.numpy() for value in self.model(torch.from_numpy(images))]


class ExecuTorch(Runtime):
    """A file of ExecuTorch, in its runtime for Python.

    Args:
        path (str | Path): Of the ``.pte``.
    """

    def __init__(self, path: Union[str, Path]):
        from executorch.runtime import Runtime as Executor
        try:
            self.program = Executor.get().load_program(str(path))
            text = bytes(self.program.load_method(KEY).execute([])[0].tolist()).decode() if KEY in self.program.method_names else ''
            self.method = self.program.load_method('forward')
        except Exception as error:  # of several kinds
            raise unreadable(path, error) from error
        super().__init__(path, text)

    def _run(self, images: np.ndarray) -> Any:
        return [value.numpy().copy() for value in self.method.execute([torch.from_numpy(images)])]  # the next call writes over it
