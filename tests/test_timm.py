"""SLaK in timm."""
import argparse
from pathlib import Path

import pytest
import torch
from micro_configs import ARCH

timm = pytest.importorskip('timm')
from timm.models import load_checkpoint  # noqa: E402
from timm.models._manipulate import group_with_matcher  # noqa: E402
from timm.utils.model import reparameterize_model  # noqa: E402

from slak_mm.timm import SLaK  # noqa: E402

pytestmark = pytest.mark.slow
DATA = Path(__file__).parent / 'data'
NAMES = ['slak_base', 'slak_large', 'slak_small', 'slak_tiny']


@pytest.fixture
def micro():
    torch.manual_seed(0)
    return SLaK(ARCH, num_classes=7).eval()


@pytest.fixture
def parity():
    return torch.load(DATA / 'slak_micro_io.pth', weights_only=True)


def test_registered():
    assert timm.list_models('slak_*') == NAMES
    with torch.device('meta'):
        counts = [sum(p.numel() for p in timm.create_model(name, device='meta').parameters()) for name in NAMES]
    assert counts == [157_950_792, 346_624_518, 91_131_820, 50_703_838]


@pytest.mark.parametrize('entry, expected', [('model_ema', 'logits_ema'), ('model', 'logits')])
def test_an_official_file_loads_as_it_is(micro, parity, tmp_path, entry, expected):
    weights = torch.load(DATA / 'slak_micro.pth', weights_only=True)[entry]
    torch.save(dict(model=weights, epoch='best', args=argparse.Namespace(lr=4e-3, model='SLaK_tiny')), tmp_path / 'official.pth')
    load_checkpoint(micro, str(tmp_path / 'official.pth'))
    assert torch.allclose(micro(parity['input']), parity[expected], atol=1e-5)


def test_its_own_file_loads_again(micro, tmp_path):
    torch.save(micro.state_dict(), tmp_path / 'own.pth')
    other = SLaK(ARCH, num_classes=7).eval()
    load_checkpoint(other, str(tmp_path / 'own.pth'))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in micro.state_dict().items())
    assert not any(isinstance(name, str) and name.startswith('norm3') for name in micro.state_dict())


def test_a_file_of_other_kernels_is_refused(micro):
    with pytest.raises(RuntimeError, match='does not fit the backbone; nothing was loaded'):
        micro.load_state_dict(SLaK(ARCH, num_classes=7, kernel_sizes=(7, 7, 7, 7)).state_dict())


def test_features():
    model = timm.create_model('slak_tiny', features_only=True, out_indices=(1, 3)).eval()
    maps = model(torch.randn(1, 3, 64, 64))
    assert model.feature_info.channels() == [249, 998] and model.feature_info.reduction() == [8, 32]
    assert [tuple(one.shape) for one in maps] == [(1, 249, 8, 8), (1, 998, 2, 2)]


def test_intermediates_are_the_maps_of_the_stages(micro, parity):
    last, maps = micro.forward_intermediates(parity['input'])
    assert torch.equal(last, micro.forward_features(parity['input'])) and torch.equal(last, maps[-1])
    early = micro.forward_intermediates(parity['input'], indices=[0, 1], stop_early=True, intermediates_only=True)
    assert all(torch.equal(*pair) for pair in zip(early, maps[:2])) and len(early) == 2
    assert [one.shape[1] for one in maps] == [info['num_chs'] for info in micro.feature_info]
    assert torch.equal(micro.forward_head(last), micro(parity['input']))
    with pytest.raises(ValueError, match="must be 'NCHW', got 'NLC'"):
        micro.forward_intermediates(parity['input'], output_fmt='NLC')
    assert micro.prune_intermediate_layers([1]) == [1]
    assert torch.equal(micro(parity['input']), maps[1]) and micro.num_features == maps[1].shape[1]


def test_classifier(micro, parity):
    pooled = micro.forward_head(micro.forward_features(parity['input']), pre_logits=True)
    micro.reset_classifier(3)
    assert micro(parity['input']).shape == (2, 3) and micro.get_classifier().out_features == micro.num_classes == 3
    micro.reset_classifier(0)
    assert torch.equal(micro(parity['input']), pooled)
    micro.reset_classifier(0, '')
    assert micro(parity['input']).shape == (2, 26, 2, 3)


def test_reparameterized_it_computes_the_same(parity):
    torch.manual_seed(0)
    model = SLaK(ARCH, num_classes=7).train()
    with torch.no_grad():
        for _ in range(3):  # statistics other than the initial ones
            model(parity['input'] * 2 + 1)
    merged = reparameterize_model(model.eval())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in merged.modules()) == 0 < sum(
        isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert torch.allclose(merged(parity['input']), model(parity['input']), atol=1e-5)


def test_gradients_are_the_same_when_blocks_are_computed_again(micro, parity):
    grads = []
    for enable in (False, True):
        micro.set_grad_checkpointing(enable)
        micro.zero_grad()
        micro(parity['input']).sum().backward()
        grads.append([p.grad.clone() for p in micro.parameters()])
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*grads))


@pytest.mark.parametrize('coarse', [False, True])
def test_layers_of_the_learning_rate(micro, coarse):
    groups = group_with_matcher(micro.named_parameters(), micro.group_matcher(coarse), reverse=True)
    ids = {name: group for name, group in groups.items()}
    assert ids['downsample_layers.0.0.weight'] == 0 < ids['stages.0.0.norm.weight'] < ids['stages.1.0.norm.weight'] \
        < ids['stages.2.1.norm.weight'] < ids['stages.3.0.norm.weight'] < ids['head.fc.weight']
    assert (ids['stages.2.0.norm.weight'] == ids['stages.2.1.norm.weight']) == coarse
    assert ids['downsample_layers.3.1.weight'] <= ids['stages.3.0.norm.weight']
