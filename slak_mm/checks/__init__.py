"""What users have, looked at before a run depends on it: annotations, images, configs."""
from .annotations import DataError, check_detection_data
from .config import check_data, load_config
from .images import check_images, classes_of, read_image
from .refusing import Setup, refusing

__all__ = ['DataError', 'Setup', 'check_data', 'check_detection_data', 'check_images', 'classes_of', 'load_config', 'read_image',
           'refusing']
