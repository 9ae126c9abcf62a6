"""A file for RGB images in a backbone for others."""
import pytest
import torch

from slak_mm import SLaK
from slak_mm.checkpoints import CheckpointError

IMAGE = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def load(micro, official, channels, **kwargs):
    torch.manual_seed(0)
    model = SLaK(**micro, in_channels=channels, init_cfg=dict(type='Pretrained', checkpoint=str(official), **kwargs))
    model.init_weights()
    return model.eval()


def weight(model):
    return model.downsample_layers[0][0].weight


@pytest.mark.parametrize('channels, stem', [(1, 'sum'), (4, 'sum'), (6, 'sum'), (1, 'repeat'), (6, 'repeat')])
def test_an_image_of_equal_channels_has_the_same_output(micro, official, channels, stem):
    if (channels, stem) == (1, 'repeat'):
        torch.testing.assert_close(weight(load(micro, official, 1, stem=stem)), 3 * weight(load(micro, official, 3))[:, :1])
        return
    outs = load(micro, official, channels, stem=stem)(IMAGE.expand(-1, channels, -1, -1))
    for ours, theirs in zip(outs, load(micro, official, 3)(IMAGE.expand(-1, 3, -1, -1))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 2, 4, 6])
def test_first_channels_are_kept_and_others_random(micro, official, channels):
    rgb, first, random = load(micro, official, 3), *(load(micro, official, channels, stem=stem) for stem in ('first', 'random'))
    kept = min(channels, 3)
    assert torch.equal(weight(first)[:, :kept], weight(rgb)[:, :kept])
    new = weight(SLaK(**micro, in_channels=channels))
    assert all(.5 < tensor.std() / new.std() < 2 for tensor in (weight(first)[:, kept:], weight(random)) if tensor.numel())
    assert not torch.equal(weight(random)[:, :kept], weight(rgb)[:, :kept])
    others = [name for name, _ in rgb.named_parameters() if name != 'downsample_layers.0.0.weight']
    assert all(torch.equal(first.get_parameter(name), rgb.get_parameter(name)) for name in others)


def test_without_it_the_file_is_refused_and_the_way_on_is_said(micro, official):
    with pytest.raises(CheckpointError, match=r"(?s)in_channels=3, .*keep in_channels=4.*stem=.*'sum', 'repeat', 'first', 'random'"):
        load(micro, official, 4)


def test_it_changes_nothing_where_channels_are_equal_and_is_no_other_word(micro, official):
    assert torch.equal(weight(load(micro, official, 3, stem='sum')), weight(load(micro, official, 3)))
    with pytest.raises(ValueError, match="stem='mean' is unknown"):
        load(micro, official, 4, stem='mean')


def test_it_is_an_option_of_train(micro):
    from mmengine.config import Config

    from slak_mm.errors import InputError
    from slak_mm.training.options import set_pretrained
    cfg = Config(dict(model=dict(backbone=dict(micro, type='SLaK')), resume=False, load_from=None))
    set_pretrained(cfg, 'file.pth', stem='sum')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='file.pth', stem='sum')
    with pytest.raises(InputError, match='--pretrained'):
        set_pretrained(Config(dict(model=dict(backbone=dict(micro, type='SLaK')), resume=False, load_from=None)), None, stem='sum')
