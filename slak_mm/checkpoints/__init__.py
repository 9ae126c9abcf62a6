"""Read a checkpoint safely, give its weights our names, see whether they fit, and start a model from them."""
from .file import CheckpointError, load_file, named
from .fit import adapt_state_dict, backbones, check_fits, match_names
from .infer import infer_config
from .names import convert_state_dict
from .pretrained import PretrainedInit
from .scheme import SCHEME, source
from .stem import STEMS, adapt_stem
from .weights import select_state_dict

__all__ = [
    'SCHEME', 'STEMS', 'CheckpointError', 'PretrainedInit', 'adapt_state_dict', 'adapt_stem', 'backbones', 'check_fits',
    'convert_state_dict', 'infer_config', 'load_file', 'match_names', 'named', 'select_state_dict', 'source'
]
