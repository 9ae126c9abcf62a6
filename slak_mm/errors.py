class UserError(Exception):
    """What the person who runs this can fix; the message says how. A tool ends with it as one line, without a traceback."""


class InputError(UserError, ValueError):
    """A config, an option or a file cannot be used as it is."""
