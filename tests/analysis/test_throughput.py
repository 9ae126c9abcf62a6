"""What tools/benchmark.py measures with, and against what."""
import pytest
import torch

from slak_mm.analysis.authors_layout import AuthorsLayoutSLaK
from slak_mm.analysis.networks import BASELINE, CONVNEXT, OURS, WITH_CP, TrainStep, builders, memory_of_training, merged
from slak_mm.analysis.throughput import fit_exponent, in_fresh_process, interleaved, peak_memory
from slak_mm.models import SLaK

ARCH = dict(depths=(1, 1, 2, 1), channels=(8, 8, 12, 16))


def twins(**options):
    """Our SLaK and the baseline, with the same weights and statistics, none of them trivial."""
    torch.manual_seed(0)
    ours = SLaK(ARCH, norm_cfg=dict(type='BN'), layer_scale_init_value=.5, **options)
    for name, tensor in ours.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(.5, 1.5) if 'var' in name else tensor.normal_(tensor.mean().item(), .2)
    baseline = AuthorsLayoutSLaK(ARCH['depths'], ours.channels, **options)
    baseline.load_state_dict(ours.state_dict())
    return ours, baseline


@pytest.mark.parametrize('options', [dict(), dict(kernel_sizes=(9, 7, 5, 5))], ids=['paper', 'small'])
def test_the_baseline_computes_what_slak_computes(options):
    ours, baseline = twins(**options)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        (expected, ), (out, ) = ours.eval()(x), baseline.eval()(x)
    assert expected.std() > .1
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_the_baseline_trains_as_slak_does():
    models = twins()
    x = torch.randn(2, 3, 64, 64)
    outs = []
    for model in models:
        outs.append(model.train()(x)[0])
        (outs[-1] * torch.linspace(-1, 1, outs[-1].numel()).view_as(outs[-1])).sum().backward()
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-5, atol=1e-5)
    ours, baseline = ({name: p.grad for name, p in model.named_parameters()} for model in models)
    assert ours.keys() == baseline.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(baseline[name], grad, rtol=1e-3, atol=1e-4 * grad.abs().max().item() + 1e-5, msg=name)
    ours, baseline = (dict(model.named_buffers()) for model in models)
    for name, statistic in ours.items():
        torch.testing.assert_close(baseline[name], statistic, rtol=1e-4, atol=1e-5, msg=name)


def test_cases_are_measured_in_turn():
    calls = []
    seconds = interleaved(dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 2)
    assert calls == ['a', 'b'] * 3 and {name: len(values) for name, values in seconds.items()} == dict(a=2, b=2)


def test_a_sample_is_the_mean_of_its_calls(monkeypatch):
    clock = [0.]
    monkeypatch.setattr('time.perf_counter', lambda: clock[0])

    def case():
        clock[0] += 2.

    assert interleaved(dict(case=case), 3, calls=5) == dict(case=[2.] * 3) and clock == [40.]


@pytest.mark.parametrize('exponent', [1., 2., -.5])
def test_the_exponent_of_a_power_law_is_found(exponent):
    sizes = [7, 13, 51, 151]
    assert fit_exponent(sizes, [3e-4 * size**exponent for size in sizes]) == pytest.approx(exponent)
    noisy = [3e-4 * size**exponent * factor for size, factor in zip(sizes, (1.02, .99, .98, 1.01))]
    assert 1e-4 < abs(fit_exponent(sizes, noisy) - exponent) < .05


def test_peak_memory_is_of_the_run_alone():
    def hold(mebibytes):
        return lambda: torch.ones(mebibytes * 2**18)

    large, small = peak_memory(hold(256)), peak_memory(hold(64))
    assert .9 < large / 2**28 < 1.2 and .9 < small / 2**26 < 1.3


LARGER = dict(ARCH, channels=(32, 64, 128, 512))


def memory_of_two():
    return [memory_of_training(OURS, arch, 2, 64, 'cpu', torch.float32, 1) for arch in (ARCH, LARGER)]


@pytest.mark.slow
def test_a_larger_model_needs_more_memory_to_train():
    kept = torch.ones(2**27)  # that this process holds half a GiB is no matter to another one
    small, larger = in_fresh_process(memory_of_two)
    # weights, gradients and two moments of each, less what the first one leaves to the process
    parameters = sum(p.numel() for p in builders(LARGER)[OURS]().parameters())
    assert 0 < small and small + 8 * parameters < larger < kept.numel() * 4


def test_networks():
    arch = dict(depths=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    networks = {name: build() for name, build in builders(arch).items()}
    assert networks.keys() == {BASELINE, OURS, WITH_CP, *CONVNEXT}
    count = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert count[BASELINE] == count[OURS] == count[WITH_CP] and count[CONVNEXT[0]] == count[CONVNEXT[1]]
    assert networks[CONVNEXT[1]].backbone.downsample_layers[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64)
    ours = networks[OURS].eval()
    with torch.no_grad():
        assert all(network(x).shape == (2, 1000) for network in networks.values())
        torch.testing.assert_close(merged(ours)(x), ours(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == count[OURS]  # it was a copy that was merged


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_train_step(dtype):
    torch.manual_seed(0)
    model = builders(dict(depths=(1, 1, 1, 1), channels=(4, 4, 8, 8)))[OURS]()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    step = TrainStep(model, 2, 64, 'cpu', dtype)
    step.compute()
    assert all(parameter.dtype == torch.float32 and torch.equal(parameter, before[name])
               for name, parameter in model.named_parameters())
    step.update()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
