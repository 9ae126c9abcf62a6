"""Turns exceptions about what a user described into one line. Bugs keep their traceback."""
import difflib
import inspect
import os.path as osp
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Iterator, List, Optional

from mmengine.dataset import BaseDataset
from mmengine.registry import build_from_cfg

from ..errors import TRACEBACK, InputError, UserError, in_one_line
from .class_lists import names_in_file
from .findings import DataError, listed
from .left_out import find_remedy
from .split import classes_of, source_of

REFUSED = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)

NOT_ANNOTATIONS = ('', '.py', '.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')  # files that a data set mentions while it reads others


@contextmanager
def refusing(what: str, kinds=REFUSED) -> Iterator[None]:
    """A context in which something is built that a user described: exceptions are about the description.

    Args:
        what (str): The config, or its part, for the message.
        kinds: Exceptions, as for ``except``. Defaults to :data:`REFUSED`.

    Raises:
        InputError: For each of ``kinds``, from it.
        DataError: A data set found no data, or cannot read a file of annotations.
        UserError, OSError: As they were raised.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except kinds as error:
        text = in_one_line(error, 600)
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        for frame in frames:
            if frame.f_code is BaseDataset._serialize_data.__code__ and not frame.f_locals['self'].data_list:
                raise empty(frame.f_locals['self']) from error
        path = _file_that_is_read(frames)
        if path:
            raise DataError(f'{path} cannot be used as annotations: {text}. Fix the file, or ann_file and type of the data set; '
                            f'{TRACEBACK}=1 shows where it was raised.') from error
        remedy = (_remedy_for_arguments(error, frames)
                  or f'Fix it there or with --cfg-options; {TRACEBACK}=1 shows where it was raised.')
        raise InputError(f'{what}: {text}. {remedy}') from error


def _remedy_for_arguments(error: BaseException, frames: List[FrameType]) -> str:
    """What to do about arguments that the innermost class which was to be built from a dict does not have; '' if it has them all."""
    building = [frame.f_locals for frame in frames if frame.f_code is build_from_cfg.__code__ and 'obj_cls' in frame.f_locals]
    if not isinstance(error, TypeError) or not building:
        return ''
    kind, given = building[-1]['obj_cls'], building[-1]['args']
    known = inspect.signature(kind).parameters
    unknown = [name for name in given if name not in known]
    if not unknown or any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return ''
    if unknown == ['pretrained']:
        return 'Set model.pretrained=None; --pretrained of tools/train.py, or init_cfg, names a file to start from.'
    similar = difflib.get_close_matches(unknown[0], known, 1)
    if len(unknown) == 1 and similar:
        return f'Write {similar[0]!r} if it is meant.'
    return (f'{kind.__name__} has no {listed(unknown)}. If they come from a base config, for another type, start your dict with '
            '_delete_=True.')


def _file_that_is_read(frames: List[FrameType]) -> Optional[str]:
    """The file that a data set was reading: the innermost variable that is the path of one, else its file of annotations."""
    loading = [i for i, frame in enumerate(frames) if frame.f_code.co_name == 'load_data_list']
    if not loading:
        return None
    for frame in reversed(frames[loading[0]:]):
        for value in frame.f_locals.values():
            if isinstance(value, str) and osp.splitext(value)[1].lower() not in NOT_ANNOTATIONS and osp.isfile(value):
                return value
    return getattr(frames[loading[0]].f_locals.get('self'), 'ann_file', None) or None


def empty(dataset) -> DataError:
    """The error about a data set in which nothing is left: mmengine's does not say why."""
    source, classes = source_of(dataset), classes_of(dataset)
    try:
        infos = dataset.load_data_list()  # before they were filtered
    except Exception:  # it was only for the message
        infos = []
    if infos and classes:
        names = names_in_file(dataset, infos)
        found = f' The file has: {listed(names)}.' if names else ''
        return DataError(f'{source}: no image shows an object of the classes {listed(classes)}: all {len(infos)} are filtered.'
                         f"{found} metainfo=dict(classes=(...)) of the data set names the classes; "
                         'filter_cfg=dict(filter_empty_gt=False) keeps images without objects.')
    if infos:
        return DataError(f'{source}: each of the {len(infos)} images is filtered: see filter_cfg of the data set.')
    return DataError(f'{type(dataset).__name__}: no images are found by {source}: no image is listed. {find_remedy(dataset)}')
