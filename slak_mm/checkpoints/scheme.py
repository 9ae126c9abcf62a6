"""``load_from='slak_mm://PATH_OR_URL'``."""
from mmengine.runner import CheckpointLoader

from .file import CheckpointError, load_file, named
from .fit import check_masks
from .names import name_as_model
from .weights import describe_classes, select_state_dict

SCHEME = 'slak_mm://'


def source(checkpoint: str) -> str:
    """``load_from`` for a path or http(s) URL, so that it is read safely and in any format; other schemes are mmengine's."""
    return checkpoint if '://' in checkpoint and not checkpoint.startswith('http') else SCHEME + checkpoint


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_slak_mm(filename: str, map_location='cpu') -> dict:
    """``load_from='slak_mm://PATH_OR_URL'``: any file that ``init_cfg`` takes, for a whole model, as mmengine wants it.

    Left out are the texts of configs in mmengine's own files: it runs them, one on resuming, one in an inferencer without a config. Of
    other files' meta data, what a model's classes are called is kept, as ``dataset_meta``, whichever way they have it.

    Raises:
        CheckpointError: See ``load_file``, ``select_state_dict``, ``name_as_model`` and ``check_masks``.
    """
    path = filename[len(SCHEME):]
    with named(path):
        checkpoint = load_file(path, map_location)
        state_dict = select_state_dict(checkpoint)
        if 'message_hub' not in checkpoint:  # not mmengine's own
            return dict(meta=describe_classes(checkpoint), state_dict=name_as_model(state_dict))
        check_masks(checkpoint)
        return dict(checkpoint, state_dict=state_dict, **_without_configs(checkpoint))


def _without_configs(checkpoint: dict) -> dict:
    try:
        meta, hub = {**checkpoint.get('meta', {}), **describe_classes(checkpoint)}, dict(checkpoint['message_hub'])
        meta.pop('config', None)
        for part in hub.keys() & {'runtime_info', 'resumed_keys'}:
            hub[part] = {key: value for key, value in hub[part].items() if key != 'cfg'}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'This is not a checkpoint as mmengine saves it ({type(error).__name__}: {error}). Nothing was loaded. '
                              'Take another checkpoint.') from None
    return dict(meta=meta, message_hub=hub)
