import os
import shutil
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

from ..checkpoints import CheckpointError


@register_backend('local', prefixes='', force=True)
class AtomicLocalBackend(LocalBackend):
    """mmengine's storage on local disks, of which it takes the place: a file is there whole, or as it was before.

    ``put`` writes a temporary file next to the target and renames it, so that whatever kills the process, no torn file stays under the
    target's name. Checkpoints (``*.pth``) are on the disk before they get their name; pictures and logs need not outlive a power
    failure.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Writes ``obj`` to ``filepath``, whose folder is created if need be.

        Raises:
            CheckpointError: A checkpoint cannot be written, e.g. on a full disk. What was there before is still there.
        """
        path = Path(filepath)
        temporary = path.with_name(f'{path.name}.tmp')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, 'wb') as file:
                file.write(obj)
                if path.suffix == '.pth':
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if path.suffix == '.pth':
                _synchronize_folder(path.parent)
        except OSError as error:
            try:
                temporary.unlink(missing_ok=True)
                free = f', {shutil.disk_usage(path.parent).free:,} are free'
            except OSError:
                free = ''
            if path.suffix != '.pth':
                raise
            raise CheckpointError(
                f'{path} could not be saved: {error.strerror or error} ({len(obj):,} bytes are to be written{free}). Earlier '
                'checkpoints are untouched: make room, then continue from the newest with --resume.') from error


def _synchronize_folder(folder: Path) -> None:
    """So that a new name outlives a power failure; some file systems, and Windows, offer none for folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
