"""How the tests load a file into a micro SLaK, and compare it with what the authors' code computes."""
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
