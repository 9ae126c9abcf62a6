"""The one kind of exception that is for the person who runs something, and the line that it becomes."""
TRACEBACK = 'SLAK_MM_TRACEBACK'  # environment variable: tools let the exception through, with its traceback


class UserError(Exception):
    """What the person who runs this can fix; the message says how. A tool ends with it as one line, without a traceback."""


class InputError(UserError, ValueError):
    """A config, an option or a file cannot be used as it is."""


def describe(error: Exception) -> str:
    """What a tool says of a :class:`UserError` or an ``OSError`` before it ends: ``error: ...``."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f'{error.filename}: {error.strerror}. Name a file that can be read, or a folder that can be written to.'
    return f'error: {message}'
