"""Dynamic sparsity in plain torch (Algorithm 1 and appendix B of the SLaK paper)."""

from .allocation import draw, erk, from_weights, snip, snip_scores, uniform
from .criteria import GROW, PRUNE
from .masks import Masks, maskable
from .schedule import Schedule
from .updater import DynamicSparsity

__all__ = ['GROW', 'PRUNE', 'DynamicSparsity', 'Masks', 'Schedule', 'draw', 'erk', 'from_weights', 'maskable', 'snip',
           'snip_scores', 'uniform']
