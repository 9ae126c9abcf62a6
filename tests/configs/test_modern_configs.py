"""Configs of heads that the paper has not: the recipes of their libraries, with a SLaK and layer decay on it alone."""
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn

from slak_mm.analysis.flops import complexity
from slak_mm.models.build import build_model
from slak_mm.registry import enter_scope

ROOT = Path(__file__).parents[2]
# decay rate and type
NAMES = {
    'mask_rcnn_slak_t_1x_coco': (.95, 'layer_wise'),
    'mask_rcnn_slak_t_3x_coco': (.95, 'layer_wise'),
    'mask2former_slak_t_50e_coco': (.7, 'layer_wise'),
    'dino_slak_t_12e_coco': (.7, 'layer_wise'),
    'rtmdet_slak_t_300e_coco': (.7, 'layer_wise'),
    'mask2former_slak_t_160k_ade20k': (.9, 'stage_wise'),
    'ham_slak_t_160k_ade20k': (.9, 'stage_wise'),
    'rotated/oriented_rcnn_slak_t_dota': (.95, 'layer_wise'),
}
pytestmark = pytest.mark.slow


def read(name):
    if name.startswith('rotated'):
        pytest.importorskip('mmrotate')
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    enter_scope(cfg)
    return cfg


def layer_id(name, kind):
    """Of a parameter of SLaK-T's backbone, by ConvNeXt's rules, written out once more."""
    part, index, block = [*name.split('.'), ''][1:4]
    if kind == 'stage_wise':
        return 0 if part == 'downsample_layers' else int(index) + 1 if part == 'stages' else 7
    if part == 'downsample_layers':
        return (0, 2, 3, 6)[int(index)]
    if part == 'stages':
        return (1, 2, 3 + int(block) // 3, 6)[int(index)]
    return 7


@pytest.mark.parametrize('name', NAMES)
def test_learning_rates_and_weight_decays(name):
    """Each parameter: outside the backbone as the stock constructor has it by the library's rules, without decay of norms, biases and
    embeddings; in it times the decay of its layer."""
    decay, kind = NAMES[name]
    cfg = read(name)
    with torch.device('meta'):
        model = build_model(cfg)
    ours = {}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        ours.update({param: (group['lr'], group['weight_decay']) for param in group['params']})
    # mmengine's own, with what the libraries give to queries and levels: embeddings are nn.Embedding
    embeddings = {f'{part}.': dict(decay_mult=0.) for part, module in model.named_modules()
                  if isinstance(module, nn.Embedding) and not part.startswith('backbone.')}
    stock = DefaultOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(cfg.optim_wrapper.optimizer)),
        dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0., bypass_duplicate=True, custom_keys=embeddings))
    theirs = {group['params'][0]: (group['lr'], group['weight_decay']) for group in stock(model).optimizer.param_groups}
    assert ours.keys() == theirs.keys() == {p for p in model.parameters() if p.requires_grad}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, weight_decay = theirs[parameter]
        scale = decay**(7 - layer_id(parameter_name, kind)) if parameter_name.startswith('backbone.') else 1
        assert ours[parameter] == (pytest.approx(lr * scale), weight_decay), parameter_name
    assert len({rate for rate, _ in ours.values()}) >= 5


@pytest.mark.parametrize('name', NAMES)
def test_it_is_the_librarys_config_but_for_the_backbone(name):
    cfg = read(name)
    model = cfg.model
    assert model.backbone.type == 'slak_mm.SLaK' and cfg.pretrained == 'checkpoints/slak_t_300e_in1k.pth'
    widths = [124, 249, 499, 998]
    where = model.get('neck') or model.get('decode_head') or model.get('panoptic_head')
    used = widths[-len(where.in_channels):]
    assert list(where.in_channels) == used
    indices = model.decode_head.in_index if 'ham' in name else model.backbone.out_indices
    assert [widths[i] for i in indices] == used
    assert [hook.type for hook in cfg.custom_hooks if 'Sparsity' in hook.type] == ['slak_mm.SparsityHook']
    if 'rtmdet' in name:
        assert [hook.type for hook in cfg.custom_hooks[1:]] == ['EMAHook', 'PipelineSwitchHook']


@pytest.mark.parametrize('name', ['dino_slak_t_12e_coco', 'mask2former_slak_t_160k_ade20k'])
def test_flops_of_heads_that_read_the_size_of_images(name):
    cfg = read(name)
    with torch.device('meta'):
        model = build_model(cfg)
        again = build_model(cfg)  # building leaves the config as it is
    assert model.state_dict().keys() == again.state_dict().keys()
    counted = complexity(model.to_empty(device='cpu'), (256, 320) if 'dino' in name else (64, 96))
    head = 'bbox_head' if 'dino' in name else 'decode_head'
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    by_part = {part: sum(layer.macs for layer in counted.layers if layer.name.startswith(part)) for part in ('backbone', head)}
    assert all(macs > 10**7 for macs in by_part.values()) and counted.macs >= sum(by_part.values())
