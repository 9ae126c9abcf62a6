"""What other versions of torch and mmengine need, in one place. Imported before anything else of the package."""
from .versions import HAS_ALLOW_LIST, checkpoint_types, is_compiling, is_functorch_active, load_weights_only, wrap_step

__all__ = ['HAS_ALLOW_LIST', 'checkpoint_types', 'is_compiling', 'is_functorch_active', 'load_weights_only', 'wrap_step']
