import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from versions import needs_torch

from slak_mm.sparsity.masks import Masks, maskable, pack, unpack

pytestmark = pytest.mark.filterwarnings('error')


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.large_kernel = nn.Conv2d(4, 4, (7, 5), groups=4, bias=False)
        self.conv1d = nn.Conv1d(2, 2, 3)
        self.head = nn.Linear(4, 5)
        self.tied = self.head


def half_masks(params):
    """Every second weight of each layer."""
    return {name: (torch.arange(p.numel()) % 2 == 0).view(p.shape) for name, p in params.items()}


def test_2d_and_4d_weights_are_maskable_and_a_shared_one_counts_once():
    params = maskable(Net())
    assert list(params) == ['stem.weight', 'large_kernel.weight', 'head.weight']
    assert Masks(params).total == 4 * 3 * 9 + 4 * 35 + 20


@pytest.mark.parametrize('only, exclude, left', [
    (['large_kernel'], (), ['large_kernel.weight']),
    ('large_kernel', (), ['large_kernel.weight']),
    ((), ('head',), ['stem.weight', 'large_kernel.weight']),
    (['stem', 'head'], ['stem'], ['head.weight']),
])
def test_only_and_exclude_are_substrings(only, exclude, left):
    assert list(maskable(Net(), only, exclude)) == left


@pytest.mark.parametrize('kwargs', [{'only': ['kernel', 'typo']}, {'exclude': ['typo']}, {'exclude': ['norm']}])
def test_an_entry_that_matches_nothing_is_an_error_that_lists_the_names(kwargs):
    with pytest.raises(ValueError, match=r'nothing matches.*large_kernel\.weight'):
        maskable(Net(), **kwargs)


def test_no_parameter_left_is_an_error():
    with pytest.raises(ValueError, match='no parameter to mask'):
        maskable(Net(), exclude=['weight'])
    with pytest.raises(ValueError, match='no parameter to mask'):
        maskable(nn.BatchNorm2d(3))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_packing_bits_and_back(shape, random):
    mask = torch.tensor([random.random() < .5 for _ in range(torch.Size(shape).numel())]).view(shape)
    packed = pack(mask)
    assert packed.dtype == torch.uint8 and packed.shape == ((mask.numel() + 7) // 8,)
    assert torch.equal(unpack(packed, shape), mask)


def test_packed_bit_i_is_weight_i():
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 0] = mask[0, 3] = mask[1, 7] = True
    assert pack(mask).tolist() == [1 + 8, 128]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_apply_zeroes_the_masked_weights_and_nothing_else(dtype, memory_format):
    model = Net().to(dtype).to(memory_format=memory_format)
    params = maskable(model, exclude=['head'])
    wanted, before = half_masks(params), {name: p.detach().clone() for name, p in model.named_parameters()}
    storage = {name: p.data_ptr() for name, p in model.named_parameters()}
    masks = Masks(params)
    masks.assign(wanted)
    masks.apply_()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] * wanted[name] if name in wanted else before[name])
        assert p.dtype == dtype and p.requires_grad and p.is_leaf and p.data_ptr() == storage[name]


@pytest.mark.parametrize('shape', [(700, 999), (2, 300_000), (300, 100, 5, 5)])
def test_a_layer_that_is_multiplied_in_pieces(shape):
    weight = torch.ones(shape)
    weight = nn.Parameter(weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight)
    masks = Masks({'w': weight})
    masks.assign({'w': torch.rand(shape, generator=torch.Generator().manual_seed(0)) < .6})
    masks.apply_()
    assert torch.equal(weight, masks.active['w'].float())


@pytest.mark.parametrize('make, count', [
    (lambda p: torch.optim.AdamW(p, amsgrad=True), 3),
    (lambda p: torch.optim.SGD(p, lr=.1, momentum=.9), 1),
    (lambda p: torch.optim.SGD(p, lr=.1), 0),
])
def test_apply_zeroes_any_moment_of_masked_weights(make, count):
    model = Net()
    masks = Masks(maskable(model))
    masks.assign(half_masks(masks.params))
    optimizer = make(model.parameters())
    model.stem(torch.randn(2, 3, 9, 9)).sum().backward()  # the other layers have no gradient, so no state
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[model.stem.weight].items() if torch.is_tensor(v)}
    states = len(optimizer.state)
    masks.apply_(optimizer)
    moments = [k for k, v in before.items() if v.ndim == 4]
    assert len(moments) == count
    for key in moments:
        assert torch.equal(optimizer.state[model.stem.weight][key], before[key] * masks.active['stem.weight'])
    assert len(optimizer.state) == states


def test_gradients_are_masked_where_there_are_any():
    model = Net()
    masks = Masks(maskable(model))
    masks.assign(half_masks(masks.params))
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    masks.apply_to_gradients_()
    assert torch.equal(model.stem.weight.grad, masks.active['stem.weight'].float())
    assert model.head.weight.grad is None


def test_counts():
    masks = Masks(maskable(Net()))
    assert masks.density == masks.ever_active_share == 1
    wanted = half_masks(masks.params)
    masks.assign({**wanted, 'head.weight': None})
    assert masks.counts() == {'stem.weight': 54, 'large_kernel.weight': 70, 'head.weight': 20}
    assert masks.nonzero == 144 and masks.total == 268 and masks.density == 144 / 268
    assert masks.densities() == {'stem.weight': .5, 'large_kernel.weight': .5, 'head.weight': 1}


def test_exchange_keeps_the_count_and_remembers_what_was_active():
    model = Net().to(memory_format=torch.channels_last)
    masks = Masks(maskable(model, only=['stem']))
    masks.assign(half_masks(masks.params))
    assert masks.ever_active_share == .5
    masks.exchange('stem.weight', pruned=torch.tensor([0, 2]), grown=torch.tensor([5, 107]))
    flat = masks.active['stem.weight'].flatten()
    assert flat[[0, 2, 5, 107]].tolist() == [False, False, True, True]
    assert masks.nonzero == 54 and masks.ever_active_share == 56 / 108


def test_memory_is_a_byte_a_weight_for_the_mask():
    masks = Masks(maskable(Net()))
    wanted = half_masks(masks.params)
    masks.assign(wanted)
    for held in (masks.active, masks.ever_active):
        assert sum(mask.numel() * mask.element_size() for mask in held.values()) == masks.total
    wanted['head.weight'].zero_()  # the caller's tensors are not kept
    assert masks.density == .5


@needs_torch('2.4')
def test_masks_follow_their_parameter_to_another_device():
    model = Net()
    masks = Masks(maskable(model))
    masks.assign(half_masks(masks.params))
    model.to('meta')
    masks.params = maskable(model)  # to('meta') replaces parameters, to('cuda') does not
    masks.apply_()
    assert {mask.device.type for mask in (*masks.active.values(), *masks.ever_active.values())} == {'meta'}


def test_state_dict_round_trip():
    masks = Masks(maskable(Net()))
    masks.assign({**half_masks(masks.params), 'head.weight': None})
    masks.exchange('stem.weight', pruned=torch.tensor([0]), grown=torch.tensor([1]))
    state = masks.state_dict()
    assert state['stem.weight']['shape'] == [4, 3, 3, 3] and state['stem.weight']['bits'].shape == (2, 14)
    assert state['head.weight'] == {'shape': [5, 4], 'bits': None}
    restored = Masks(maskable(Net()))
    restored.load_state_dict(state)
    for a, b in ((masks.active, restored.active), (masks.ever_active, restored.ever_active)):
        assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('spoil, message', [
    (lambda s: s.pop('head.weight'), r'head\.weight is missing'),
    (lambda s: s.update(other=s['head.weight']), 'other is not among'),
    (lambda s: s['head.weight'].update(shape=[4, 5]), r'head\.weight is \[4, 5\] instead of \[5, 4\]'),
    (lambda s: s['head.weight'].pop('shape'), r'head\.weight is \[\]'),
    (lambda s: s['head.weight'].pop('bits'), r"missing or of another size: \['head\.weight'\]"),
    (lambda s: s['head.weight'].update(bits=torch.zeros(2, 4, dtype=torch.uint8)), 'another size'),
])
def test_load_refuses_another_models_masks_and_changes_nothing(spoil, message):
    masks = Masks(maskable(Net()))
    masks.assign(half_masks(masks.params))
    state = masks.state_dict()
    spoil(state)
    untouched = Masks(maskable(Net()))
    with pytest.raises(ValueError, match=message):
        untouched.load_state_dict(state)
    assert untouched.density == 1


def test_what_is_no_weight_is_not_masked_by_default():
    class Prior(nn.Module):  # as in mmdet's AutoAssign, which divides by sigma
        def __init__(self):
            super().__init__()
            self.fc, self.sigma = nn.Linear(3, 2), nn.Parameter(torch.ones(4, 2))

    assert list(maskable(Prior())) == ['fc.weight'] and list(maskable(Prior(), only='sigma')) == ['sigma']
    assert 'in_proj_weight' in maskable(nn.MultiheadAttention(4, 2))


def test_what_is_left_out_by_its_name_is_named():
    model = nn.Module()
    model.table = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"not called 'weight', and so to be named in only: \['table'\]"):
        maskable(model)
    model.weight = nn.Parameter(torch.ones(3, 4))
    assert list(maskable(model)) == ['weight'] and list(maskable(model, only='table')) == ['table']
