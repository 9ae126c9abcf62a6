"""The one kind of exception that is for the person who runs something, and the line that it becomes; those of others in one line."""
import os.path as osp
from traceback import extract_tb

TRACEBACK = 'SLAK_MM_TRACEBACK'  # environment variable: tools let the exception through, with its traceback


class UserError(Exception):
    """What the person who runs this can fix; the message says how. A tool ends with it as one line, without a traceback."""


class InputError(UserError, ValueError):
    """A config, an option or a file cannot be used as it is."""


def in_one_line(error: BaseException, length: int = 400) -> str:
    """An exception of another library as ``Type: text``, without full stop; without text, as most assertions, the line that failed.

    Args:
        error (BaseException): Whatever was raised.
        length (int): Characters of the text, at most. Defaults to 400.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) is a repr
    said = ' '.join(str(text).split())
    if not said and error.__traceback__ is not None:
        last = extract_tb(error.__traceback__)[-1]
        said = f'{last.line} ({osp.basename(last.filename)}, line {last.lineno})'
    return f'{type(error).__name__}: {said[:length].rstrip(".")}'


def describe(error: Exception) -> str:
    """What a tool says of a :class:`UserError` or an ``OSError`` before it ends: ``error: ...``."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f'{error.filename}: {error.strerror}. Name a file that can be read, or a folder that can be written to.'
    return f'error: {message}'
