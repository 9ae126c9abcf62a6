"""Dynamic sparsity in plain torch (Algorithm 1 and appendix B of the SLaK paper): of weights, neurons, filters and N:M patterns."""

from .allocation import draw, erk, from_weights, own, snip, snip_scores, uniform
from .criteria import GROW, PRUNE
from .masks import Masks, maskable
from .pattern import Pattern
from .schedule import Ramp, Schedule
from .units import Group, Units, filters, neurons
from .updater import DynamicSparsity

__all__ = ['GROW', 'PRUNE', 'DynamicSparsity', 'Group', 'Masks', 'Pattern', 'Ramp', 'Schedule', 'Units', 'draw', 'erk', 'filters',
           'from_weights', 'maskable', 'neurons', 'own', 'snip', 'snip_scores', 'uniform']
