import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from slak_mm.sparsity import draw, erk, from_weights, maskable, snip, snip_scores, uniform

pytestmark = pytest.mark.filterwarnings('error')
fast = settings(deadline=None)
a_shape = st.one_of(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 9)] * 4)).map(torch.Size)
some_shapes = st.lists(a_shape, min_size=1, max_size=6).map(lambda s: {f'layer{i}': shape for i, shape in enumerate(s)})
a_density = st.floats(.05, .95)


def numel(shapes):
    return sum(shape.numel() for shape in shapes.values())


def no_layer_is_nearly_dense(counts, shapes):
    return all(c == shapes[name].numel() or c < .99 * shapes[name].numel() for name, c in counts.items())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def loss_of(model):
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return model(x).logsumexp(1).mean()


# --- uniform ---------------------------------------------------------------------------------------

def test_uniform_by_hand():
    shapes = {'a': torch.Size([7]), 'b': torch.Size([13]), 'c': torch.Size([30])}
    # 4.2, 7.8 and 18 of 50: 4 and 18 and 7, and one more for the largest remainder
    assert uniform(shapes, .6) == {'a': 4, 'b': 8, 'c': 18}


@fast
@given(some_shapes, a_density)
def test_uniform_is_exact(shapes, density):
    assume(round(density * numel(shapes)) > 0)
    try:
        counts = uniform(shapes, density)
    except ValueError:  # tiny layers can be dense by rounding, and take all
        assume(False)
    assert sum(counts.values()) == round(density * numel(shapes))
    assert no_layer_is_nearly_dense(counts, shapes)
    if all(shape.numel() > 50 for shape in shapes.values()):
        assert all(abs(c - density * shapes[name].numel()) < 1 for name, c in counts.items())


def test_density_1_is_dense():
    shapes = {'a': torch.Size([3, 4]), 'b': torch.Size([5, 6])}
    assert uniform(shapes, 1.) == erk(shapes, 1.) == {'a': 12, 'b': 30}


def test_a_density_that_the_dense_layers_exceed_is_refused():
    shapes = {'a': torch.Size([100, 10]), 'b': torch.Size([100, 10])}
    with pytest.raises(ValueError, match=r'density 0\.995 cannot be reached'):
        uniform(shapes, .995)
    with pytest.raises(ValueError, match='leaves 0 weights'):
        uniform(shapes, 1e-6)


@pytest.mark.parametrize('density', [0, -.1, 1.1])
def test_density_out_of_range(density):
    with pytest.raises(ValueError, match=r'density must be in \(0, 1\]'):
        uniform({'a': torch.Size([3, 4])}, density)


# --- ERK -------------------------------------------------------------------------------------------

def erk_densities(shapes, density):
    """Evci et al. (2020), as written: find epsilon, make dense the layers above 1, repeat."""
    dense = set()
    while True:
        rhs = divisor = 0
        raw = {}
        for name, shape in shapes.items():
            if name in dense:
                rhs -= (1 - density) * shape.numel()
            else:
                rhs += density * shape.numel()
                raw[name] = sum(shape) / math.prod(shape)
                divisor += raw[name] * shape.numel()
        if not raw:
            return dict.fromkeys(shapes, 1.)
        epsilon = rhs / divisor
        highest = max(raw.values())
        if highest * epsilon <= 1:
            return {name: 1. if name in dense else epsilon * raw[name] for name in shapes}
        dense |= {name for name in raw if raw[name] == highest}


@fast
@given(some_shapes, a_density)
def test_erk_is_the_literal_formula(shapes, density):
    reference = erk_densities(shapes, density)
    assume(all(d == 1 or d < .99 - 1 / shapes[name].numel() for name, d in reference.items()))  # no .99 rule
    assume(round(density * numel(shapes)) > 0)
    counts = erk(shapes, density)
    assert sum(counts.values()) == round(density * numel(shapes))
    for name, count in counts.items():
        assert abs(count - reference[name] * shapes[name].numel()) < 1 + 1e-6


@fast
@given(some_shapes, a_density)
def test_erk_is_exact_with_dense_layers_too(shapes, density):
    try:
        counts = erk(shapes, density)
    except ValueError as error:  # tiny layers that are dense by rounding can take all
        assume('cannot be reached' not in str(error))
    assert sum(counts.values()) == round(density * numel(shapes))
    assert no_layer_is_nearly_dense(counts, shapes)


def test_erk_of_a_large_kernel_counts_both_edges():
    shapes = {'dw': torch.Size([100, 1, 51, 5]), 'pw': torch.Size([1000, 400])}
    counts = erk(shapes, .1)
    ratio = (counts['dw'] / 25500) / (counts['pw'] / 400000)
    assert ratio == pytest.approx(((100 + 1 + 51 + 5) / 25500) / (1400 / 400000), rel=1e-3)


def test_what_the_dense_layers_take_is_given_by_the_others():
    # raw ratios .02, .2: epsilon * .2 = .993 for b, so it is dense and a gives the difference
    shapes = {'a': torch.Size([100, 100]), 'b': torch.Size([10, 10])}
    density = .993 / .2 * (200 + 20) / 10100
    counts = erk(shapes, density)
    assert counts['b'] == 100 and sum(counts.values()) == round(density * 10100)


# --- SNIP ------------------------------------------------------------------------------------------

def test_scores_by_hand():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3., -2.]])
    # loss = (w . x)^2 = (3 - 8)^2, gradient 2 * (-5) * x = (-10, -40)
    scores = snip_scores(dict(model.named_parameters()), lambda: model(torch.tensor([[1., 4.]])).square().sum())
    assert scores['weight'].tolist() == [[30., 80.]]


def test_scores_from_gradients_and_from_the_loss_agree_and_touch_nothing():
    model = Net()
    params = maskable(model)
    from_loss = snip_scores(params, lambda: loss_of(model))
    assert all(p.grad is None for p in model.parameters())
    loss_of(model).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    before = {name: g.clone() for name, g in gradients.items()}
    weights = {name: p.detach().clone() for name, p in params.items()}
    scores = snip_scores(params, gradients, reduce=lambda g: g.mul_(2))
    for name, p in params.items():
        torch.testing.assert_close(from_loss[name], (p * p.grad).abs().detach())
        torch.testing.assert_close(scores[name], 2 * from_loss[name])
        assert torch.equal(gradients[name], before[name]) and torch.equal(p, weights[name])


def test_scores_do_not_underflow():
    weight = nn.Parameter(torch.full((2, 2), 1e-3, dtype=torch.float16))
    scores = snip_scores({'w': weight}, {'w': torch.full((2, 2), 1e-6, dtype=torch.float16)})
    assert scores['w'].dtype == torch.float32 and (scores['w'] > 9e-10).all()


def test_gradients_are_summed_over_the_processes(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = Net()
        scores = snip_scores(maskable(model), lambda: loss_of(model))
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(scores, snip_scores(maskable(model), lambda: loss_of(model)))


def test_a_frozen_parameter_is_an_error():
    model = Net()
    model.conv.weight.requires_grad = False
    with pytest.raises(ValueError, match=r"\['conv\.weight'\]"):
        snip_scores(maskable(model), lambda: loss_of(model))


def test_a_layer_that_no_loss_reaches_keeps_the_share_of_all():
    model = Net()
    params = maskable(model)
    gradients = {name: torch.rand_like(p) for name, p in params.items()}
    gradients['conv.weight'] = None
    scores = snip_scores(params, gradients)
    assert not scores['conv.weight'].any()
    assert snip(scores, .6)['conv.weight'] == int(.6 * params['conv.weight'].numel())


def test_a_layer_of_the_lowest_scores_keeps_a_weight_for_each_output():
    scores = dict(a=torch.rand(20, 30) + 1, b=torch.rand(10, 40) / 1e6, c=torch.zeros(8, 5), d=torch.rand(20, 30) + 1)
    counts = snip(scores, .5)
    assert (counts['b'], counts['c'], counts['a'] + counts['d']) == (10, 20, 820 - 30)


def snip_brute_force(scores, density):
    """Sort all the scores, keep the best; then the .99 rule."""
    total = round(density * sum(s.numel() for s in scores.values()))
    dense = set()
    while True:
        entries = [(-v, i, j, name) for i, (name, s) in enumerate(scores.items()) if name not in dense
                   for j, v in enumerate(s.flatten().tolist())]
        rest = total - sum(scores[name].numel() for name in dense)
        assert rest >= 0
        kept = [name for *_, name in sorted(entries)[:rest]]
        counts = {name: s.numel() if name in dense else kept.count(name) for name, s in scores.items()}
        more = {name for name in scores if name not in dense and counts[name] >= .99 * scores[name].numel()}
        if not more:
            return counts
        dense |= more


@fast
@given(some_shapes, a_density, st.integers(0, 100), st.booleans())
def test_snip_ratios_are_those_of_a_global_sort(shapes, density, seed, ties):
    rng = torch.Generator().manual_seed(seed)
    scores = {}
    for i, (name, shape) in enumerate(shapes.items()):
        values = torch.rand(shape, generator=rng)
        scores[name] = (4 * values).floor() if ties else values * 1e-11 * (i + 1)
    try:
        counts = snip(scores, density)
    except ValueError as error:
        assume('cannot be reached' not in str(error))
    shares = {name: int(density * score.numel()) for name, score in scores.items()}
    least = {name: min(len(score) if score.ndim > 1 else 1, shares[name]) if score.any() else shares[name]
             for name, score in scores.items()}
    assert all(counts[name] >= least[name] for name in scores)
    plain = snip_brute_force(scores, density)
    if all(plain[name] >= least[name] for name in scores):
        assert counts == plain
    assert sum(counts.values()) == round(density * numel(shapes))
    assert no_layer_is_nearly_dense(counts, shapes)


def test_the_total_stays_exact_when_snip_makes_a_layer_dense():
    scores = {'a': torch.arange(1., 201), 'b': torch.linspace(1.5, 50.5, 800)}
    scores['a'][0] = .5  # the only weight of a outside the best 520
    scores['a'][1:] += 100
    assert snip(scores, .52) == {'a': 200, 'b': 320}


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"not finite in \['b'\]"):
        snip({'a': torch.ones(3), 'b': torch.tensor([1., float('nan')])}, .5)


# --- masks -----------------------------------------------------------------------------------------

@fast
@given(some_shapes, a_density, st.integers(0, 10))
def test_drawn_masks_have_exactly_the_counts(shapes, density, seed):
    counts = {name: round(density * shape.numel()) for name, shape in shapes.items()}
    masks = draw(shapes, counts, seed)
    for name, shape in shapes.items():
        if counts[name] == shape.numel():
            assert masks[name] is None
        else:
            assert masks[name].shape == shape and int(masks[name].sum()) == counts[name]


def test_drawn_masks_depend_on_seed_and_layer_alone():
    shapes = {'a': torch.Size([20, 20]), 'b': torch.Size([20, 20])}
    counts = {'a': 200, 'b': 200}
    state = torch.get_rng_state()
    first, again, other = draw(shapes, counts, 0), draw(shapes, counts, 0), draw(shapes, counts, 1)
    assert torch.equal(first['a'], again['a']) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first['a'], other['a']) and not torch.equal(first['a'], first['b'])


def test_from_weights_takes_the_zeros():
    params = {
        'sparse': nn.Parameter(torch.tensor([[0., 1.], [-2., 0.]])),
        'dense': nn.Parameter(torch.ones(2, 2)),
        'zero_init': nn.Parameter(torch.zeros(2, 2)),
        'zero_by_chance': nn.Parameter(torch.arange(200.).view(10, 20)),
    }
    masks = from_weights(params)
    assert masks['sparse'].tolist() == [[False, True], [True, False]]
    assert masks['dense'] is None and masks['zero_init'] is None and masks['zero_by_chance'] is None
