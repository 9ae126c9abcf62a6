"""The files of an exported model on disk."""
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator, List, Union


def is_openvino(path: Union[str, Path]) -> bool:
    """Whether a file is of OpenVINO's format, by its suffix."""
    return str(path).lower().endswith('.xml')


def files_of(path: Union[str, Path]) -> List[Path]:
    """The file, and the one with the weights that belongs to an .xml."""
    return [Path(path), Path(path).with_suffix('.bin')] if is_openvino(path) else [Path(path)]


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Where to write a file, which takes its place once it is whole; if there is an error, nothing changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, path.name)
        yield draft
        for file in reversed(files_of(draft)):
            os.replace(file, path.with_name(file.name))
