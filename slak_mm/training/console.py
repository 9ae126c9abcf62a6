"""What of mmengine's log reaches the console."""
import logging
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Iterator
from unittest import mock

from mmengine._strategy import BaseStrategy
from mmengine.logging import MMLogger
from mmengine.runner import Runner

# how the log's long tables begin: of the machine, of the whole config, and of the hooks
TABLES = ('System environment:', 'Config:', 'Hooks will be executed in the following order:')


def is_short(record: logging.LogRecord) -> bool:
    """Whether a record is none of :data:`TABLES`."""
    return not record.getMessage().lstrip('\n- ').startswith(TABLES)


@contextmanager
def quiet_console() -> Iterator[None]:
    """Within it, the console of a Runner that is built goes without :data:`TABLES`. The log file has them."""

    def quiet(build_logger):

        @wraps(build_logger)
        def wrapped(self, *args, **kwargs) -> MMLogger:
            logger = build_logger(self, *args, **kwargs)
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(is_short)
            return logger

        return wrapped

    with ExitStack() as stack:
        for owner in (Runner, BaseStrategy):  # the latter for FlexibleRunner
            stack.enter_context(mock.patch.object(owner, 'build_logger', quiet(owner.build_logger)))
        yield
