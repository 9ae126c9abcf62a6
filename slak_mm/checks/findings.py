"""What a check says, and what becomes of it."""
import logging
from dataclasses import dataclass
from typing import Iterable, Iterator, Type

from mmengine.logging import print_log

from ..errors import InputError, UserError, describe

FINE, WARNING, ERROR = 'fine', 'warning', 'error'


class DataError(InputError):
    """A data set cannot be used as it is; the message names the file."""


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Args:
        level (str): ``FINE``; ``WARNING``: the run can go on; ``ERROR``: it would stop, or its result would be wrong.
        text (str): The line, with the file and what to do.
    """

    level: str
    text: str

    def __str__(self) -> str:
        return f'{self.level}: {self.text}'


def enforce(findings: Iterable[Finding], kind: Type[InputError] = DataError) -> None:
    """Goes on with what is fine, logs what is a warning, and stops at the first error.

    Raises:
        DataError: For a finding that is an error; ``kind`` says of which other type.
    """
    for finding in findings:
        if finding.level == ERROR:
            raise kind(finding.text)
        if finding.level == WARNING:
            print_log(finding.text, logger='current', level=logging.WARNING)


def collect(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The same findings; a :class:`UserError` or an ``OSError`` that is raised on the way becomes the last of them."""
    try:
        yield from findings
    except (UserError, OSError) as error:
        yield Finding(ERROR, describe(error).partition(': ')[2])


def listed(names: Iterable, most: int = 10) -> str:
    """``a, b, c``; of more than ``most``, the first and how many more there are."""
    names = [str(name) for name in names]
    more = [] if len(names) <= most else [f'and {len(names) - most} more']
    return ', '.join(names[:most] + more)
