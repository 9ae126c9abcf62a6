"""What users have, looked at before a run depends on it: annotations, images, configs."""
from .annotations import DataError, check_detection_data
from .images import check_images, read_image

__all__ = ['DataError', 'check_detection_data', 'check_images', 'read_image']
