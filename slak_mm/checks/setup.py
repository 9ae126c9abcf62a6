"""The part of a run in which everything is built: its exceptions are refusals, and at its end the data are looked at."""
from typing import Any, List

from mmengine.hooks import Hook

from ..checkpoints import SCHEME, CheckpointError, match_names
from ..errors import InputError
from ..models.wrappers import unwrap
from .everything import check_all
from .findings import enforce
from .refusing import refusing
from .settings import check_custom_keys
from .split import Split, classes_of, source_of


class Setup(Hook):
    """A context in which a Runner is built and started. Until its loop begins, exceptions are refusals; afterwards, they are bugs.

    As a hook of that Runner it also looks at the data, before weights are loaded: see :func:`check_all`.

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
        enforce(check_all(splits_of(runner)))

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
        if runner._resume or runner._test_loop is not None:
            check_trained_classes(meta, splits_of(runner), path)
        match_names(checkpoint['state_dict'], unwrap(runner.model))


def check_trained_classes(meta: dict, splits: List[Split], path: str) -> None:
    """Compares the classes of a checkpoint with those of the data that it is to be tested or trained on.

    Raises:
        InputError: They are the same in another order, so that each name would stand for another class.
    """
    trained = tuple((meta.get('dataset_meta') or {}).get('classes') or ())
    for dataset in (dataset for split in splits for dataset in split.datasets):
        classes = classes_of(dataset)
        if trained != classes and set(trained) == set(classes):
            raise InputError(f'{path} was trained with the classes ({", ".join(trained)}), {source_of(dataset)} has them in another '
                             f'order: ({", ".join(classes)}). Write metainfo=dict(classes=...) in the order of the checkpoint.')


def splits_of(runner: Any) -> List[Split]:
    """Those of a Runner's loops that are built, because they will run."""
    loops = (('train', runner._train_loop), ('val', runner._val_loop), ('test', runner._test_loop))
    return [
        Split(name, loop.dataloader, unwrap(runner.model), getattr(getattr(loop, 'evaluator', None), 'metrics', ()),
              None if getattr(loop, '_max_epochs', 1) != 1 or name != 'train' else getattr(loop, '_max_iters', None))
        for name, loop in loops if hasattr(loop, 'dataloader')
    ]
