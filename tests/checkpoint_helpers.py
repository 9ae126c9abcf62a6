"""How the tests load a file into a micro SLaK, or give a model other weights, and compare it with what the authors' code computes."""
import torch

from slak_mm.models import SLaK


def pretrained(checkpoint, **kwargs):
    return dict(type='Pretrained', checkpoint=str(checkpoint), **kwargs)


def load(micro, checkpoint, **kwargs):
    model = SLaK(**micro, init_cfg=pretrained(checkpoint, **kwargs))
    model.init_weights()
    return model.eval()


def stage_outs(model, images):
    outs = []
    handles = [stage.register_forward_hook(lambda _, __, out: outs.append(out)) for stage in model.stages]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outs


def assert_parity(model, expected, rtol=1e-5):
    for ours, theirs in zip(stage_outs(model, expected['input']), expected['stage_outs']):
        assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()


def randomise(model):
    """Statistics, scales and biases, too: at their initial values they would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith(('bias', 'running_mean')):
            value.normal_(0, .3, generator=generator)
        elif value.ndim == 1:
            value.uniform_(.5, 1.5, generator=generator)
