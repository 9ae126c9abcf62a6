"""Models as they leave for other programs."""
from .compaction import compact
from .semi_structured import to_semi_structured

__all__ = ['compact', 'to_semi_structured']
