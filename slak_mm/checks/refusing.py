"""Turns exceptions about what a user described into one line. Bugs keep their traceback."""
from contextlib import contextmanager
from traceback import walk_tb
from typing import Iterator

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook

from ..checkpoints import SCHEME, CheckpointError, match_names
from ..errors import TRACEBACK, InputError, UserError
from ..models.wrappers import unwrap
from .images import check_images, classes_of, empty
from .settings import check_custom_keys

REFUSED = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)


@contextmanager
def refusing(what: str, kinds=REFUSED) -> Iterator[None]:
    """A context in which something is built that a user described: exceptions are about the description.

    Args:
        what (str): The config, or its part, for the message.
        kinds: Exceptions, as for ``except``. Defaults to :data:`REFUSED`.

    Raises:
        InputError: For each of ``kinds``, from it.
        DataError: mmengine found no data.
        UserError, OSError: As they were raised.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except kinds as error:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_code is BaseDataset._serialize_data.__code__ and not frame.f_locals['self'].data_list:
                raise empty(frame.f_locals['self']) from error
        text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) is a repr
        text = ' '.join(str(text).split())[:600].rstrip('.')
        raise InputError(f'{what}: {type(error).__name__}: {text}. Fix it there or with --cfg-options; {TRACEBACK}=1 shows where it '
                         'was raised.') from error


class Setup(Hook):
    """A context in which a Runner is built and started. Until its loop begins, exceptions are refusals; afterwards, they are bugs.

    As a hook of that Runner it also looks at the data, before weights are loaded.

    Args:
        config (str): Path of the config, for messages.
    """

    priority = 'LOWEST'

    def __init__(self, config: str):
        self._what = config
        self._over = False

    def __enter__(self) -> 'Setup':
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None and not self._over:
            with refusing(self._what):
                raise error

    def before_run(self, runner) -> None:
        if runner._train_loop is not None:
            check_custom_keys(runner.cfg, unwrap(runner.model))
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):  # it is built, because it will run
                check_images(loop.dataloader.dataset, classes_of(unwrap(runner.model)))

    def before_train(self, runner) -> None:
        self._over = True

    before_test = before_train

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuses to resume from weights alone; gives the weights the names that the model has for them."""
        meta, path = checkpoint.get('meta', {}), runner._load_from.replace(SCHEME, '')
        self._what = f'{path}, with {self._what}'
        if runner._resume and not all(isinstance(meta.get(key), int) and meta[key] >= 0 for key in ('epoch', 'iter')):
            raise CheckpointError(f'{path} holds weights, but not where a training stopped: it cannot be resumed. Start '
                                  'a training from it with --pretrained.')
        match_names(checkpoint['state_dict'], unwrap(runner.model))
