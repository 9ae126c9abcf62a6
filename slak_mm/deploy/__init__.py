"""Models as they leave for other programs."""
from .compaction import compact

__all__ = ['compact']
