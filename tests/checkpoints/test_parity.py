"""Official files give what the authors' code computes."""
import argparse

import pytest
import torch
import torch.nn.functional as F
from checkpoint_helpers import assert_parity, load, pretrained
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from slak_mm.checkpoints import convert_state_dict, infer_config
from slak_mm.compat import load_weights_only


def classifier(micro, **kwargs):
    """As a user's config builds it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='ImageClassifier',
            backbone=dict(type='slak_mm.SLaK', **dict(micro, out_indices=-1, gap_before_final_norm=True)),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=26),
            **kwargs))
        model.init_weights()
    return model.eval()


def test_stage_outputs_equal_the_authors(micro, official, expected):
    model = load(micro, official)
    assert_parity(model, expected)
    model.switch_to_deploy()
    assert_parity(model, expected, 1e-4)


@pytest.mark.parametrize('key, logits', [(None, 'logits'), ('model', 'logits'), ('model_ema', 'logits_ema')])
def test_logits_equal_the_authors(micro, official, expected, key, logits):
    model = classifier(micro, init_cfg=pretrained(official, key=key))
    torch.testing.assert_close(model(expected['input']), expected[logits], rtol=1e-5, atol=1e-5)
    model.backbone.switch_to_deploy()
    torch.testing.assert_close(model(expected['input']), expected[logits], rtol=1e-4, atol=1e-4)


# ---- files in the official format, computed plainly ------------------------------------------------------------------


def official_blocks(kernel_size, decomposed):
    """Kernels of each stage as the authors' option says: four long edges, then the small one, left out where it is not smaller."""
    *long_edges, small = kernel_size
    for size in long_edges:
        kernels = dict(LoRA1=(size, small), LoRA2=(small, size)) if decomposed else dict(lkb_origin=(size, size))
        yield dict(kernels, small_conv=(small, small)) if small < size else kernels


def official_file(kernel_size, depths=(1, 1, 2, 1), dims=(6, 7, 8, 9), classes=7, seed=0):
    """Weights that are not decomposed, drawn such that every term shows, under the authors' names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0., std=.3):
        return mean + std * torch.randn(*shape, generator=generator)

    def norm(name, channels):
        return {f'{name}.weight': normal(channels, mean=1.), f'{name}.bias': normal(channels)}

    def affine(name, *shape):
        return {f'{name}.weight': normal(*shape), f'{name}.bias': normal(shape[0])}

    weights = {}
    for i, (depth, width, kernels) in enumerate(zip(depths, dims, official_blocks(kernel_size, False))):
        before, size = (3, 4) if i == 0 else (dims[i - 1], 2)
        weights.update(affine(f'downsample_layers.{i}.{min(i, 1)}', width, before, size, size))
        weights.update(norm(f'downsample_layers.{i}.{int(i == 0)}', width if i == 0 else before))
        for j in range(depth):
            block = f'stages.{i}.{j}'
            weights[f'{block}.gamma'] = normal(width, mean=1.)
            for name, shape in kernels.items():
                conv = f'{block}.large_kernel.{name}'
                weights[f'{conv}.conv.weight'] = normal(width, 1, *shape)
                weights.update(norm(f'{conv}.bn', width))
                weights[f'{conv}.bn.running_mean'] = normal(width)
                weights[f'{conv}.bn.running_var'] = normal(width).abs() + .5
                weights[f'{conv}.bn.num_batches_tracked'] = torch.tensor(100)
            weights.update(norm(f'{block}.norm', width))
            weights.update(affine(f'{block}.pwconv1', 4 * width, width))
            weights.update(affine(f'{block}.pwconv2', width, 4 * width))
    return {**weights, **norm('norm', dims[-1]), **affine('head', classes, dims[-1])}


def merged_file(weights):
    """As the authors merge: batch norms folded, the small kernel added into the centre, under lkb_reparam."""
    merged = {name: value for name, value in weights.items() if '.large_kernel.' not in name}
    for layer in {name.split('.large_kernel.')[0] + '.large_kernel' for name in weights if '.large_kernel.' in name}:
        kernel, bias = None, 0.
        for branch in ('lkb_origin', 'small_conv'):
            bn = f'{layer}.{branch}.bn'
            if f'{bn}.weight' in weights:
                scale = weights[f'{bn}.weight'] / (weights[f'{bn}.running_var'] + 1e-5).sqrt()
                folded = weights[f'{layer}.{branch}.conv.weight'] * scale.view(-1, 1, 1, 1)
                bias = bias + weights[f'{bn}.bias'] - weights[f'{bn}.running_mean'] * scale
                edge = 0 if kernel is None else (kernel.shape[2] - folded.shape[2]) // 2
                kernel = folded if kernel is None else kernel + F.pad(folded, [edge] * 4)
        merged.update({f'{layer}.lkb_reparam.weight': kernel, f'{layer}.lkb_reparam.bias': bias})
    return merged


def official_logits(weights, x, kernel_size, decomposed=False, depths=(1, 1, 2, 1)):
    """The authors' network in evaluation, in plain torch, from their names alone."""

    def linear(x, name):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    def norm_channels(x, name):
        x = x.movedim(1, -1)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return (x * weights[f'{name}.weight'] + weights[f'{name}.bias']).movedim(-1, 1)

    def conv_bn(x, name, shape):
        weight, bn = weights[f'{name}.conv.weight'], f'{name}.bn'
        assert tuple(weight.shape) == (x.shape[1], 1, *shape)
        x = F.conv2d(x, weight, padding=(shape[0] // 2, shape[1] // 2), groups=x.shape[1])
        mean, var, scale, shift = (weights[f'{bn}.{term}'].view(-1, 1, 1)
                                   for term in ('running_mean', 'running_var', 'weight', 'bias'))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    for i, (depth, kernels) in enumerate(zip(depths, official_blocks(kernel_size, decomposed))):
        for layer in range(2):
            name = f'downsample_layers.{i}.{layer}'
            if layer == min(i, 1):
                x = F.conv2d(x, weights[f'{name}.weight'], weights[f'{name}.bias'], stride=4 if i == 0 else 2)
            else:
                x = norm_channels(x, name)
        for block in (f'stages.{i}.{j}' for j in range(depth)):
            out = sum(conv_bn(x, f'{block}.large_kernel.{name}', shape) for name, shape in kernels.items())
            out = norm_channels(out, f'{block}.norm').movedim(1, -1)
            out = linear(F.gelu(linear(out, f'{block}.pwconv1')), f'{block}.pwconv2') * weights[f'{block}.gamma']
            x = x + out.movedim(-1, 1)
    return linear(norm_channels(x.mean((2, 3)), 'norm'), 'head')


def official_classifier(path, key=None, dims=(6, 7, 8, 9), **kwargs):
    backbone = dict(type='slak_mm.SLaK', arch=dict(depths=(1, 1, 2, 1), channels=dims), width_factor=1.0, **kwargs)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone,
                                  head=dict(type='LinearClsHead', num_classes=7, in_channels=dims[-1]),
                                  init_cfg=pretrained(path, key=key)))
        model.init_weights()
    return model.eval()


@pytest.mark.parametrize('key, logits', [('model', 'logits'), ('model_ema', 'logits_ema')])
def test_the_plain_computation_is_the_authors(official, expected, key, logits):
    ours = official_logits(load_weights_only(official, 'cpu')[key], expected['input'], (51, 49, 47, 13, 5), decomposed=True)
    torch.testing.assert_close(ours, expected[logits], rtol=1e-5, atol=1e-5)


# their option kernel_size, and ours
NOT_DECOMPOSED = {
    'reparam': ((31, 29, 27, 13, 5), dict(kernel_sizes=(31, 29, 27, 13), small_kernel_size=5, large_kernel='reparam')),
    'convnext': ((7, 7, 7, 7, 100), dict(kernel_sizes=(7, 7, 7, 7), large_kernel='naive')),
    'naive': ((51, 49, 47, 13, 100), dict(kernel_sizes=(51, 49, 47, 13), large_kernel='naive')),
    'some stages': ((7, 7, 27, 13, 5), dict(kernel_sizes=(7, 7, 27, 13), small_kernel_size=5, large_kernel='reparam')),
    'some small': ((7, 7, 27, 13, 7), dict(kernel_sizes=(7, 7, 27, 13), small_kernel_size=7, large_kernel='reparam')),
}


@pytest.mark.parametrize('kind', NOT_DECOMPOSED)
def test_logits_of_official_files_that_are_not_decomposed(tmp_path, kind):
    kernel_size, kwargs = NOT_DECOMPOSED[kind]
    weights, average = official_file(kernel_size), official_file(kernel_size, seed=1)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    path, path_merged = tmp_path / 'file.pth', tmp_path / 'merged.pth'
    torch.save(dict(model=weights, model_ema=average, epoch=119, args=argparse.Namespace(kernel_size=kernel_size, Decom=False)), path)
    for key, theirs in (('model', weights), ('model_ema', average)):
        logits = official_logits(theirs, images, kernel_size)
        assert logits.std() > .1
        model = official_classifier(path, key, **kwargs)
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
        model.backbone.switch_to_deploy()
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
        torch.save(dict(model=merged_file(theirs)), path_merged)
        merged = official_classifier(path_merged, **kwargs, deploy=True)
        torch.testing.assert_close(merged(images), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', NOT_DECOMPOSED)
def test_infer_config_of_official_files_that_are_not_decomposed(kind):
    kernel_size, kwargs = NOT_DECOMPOSED[kind]
    converted = convert_state_dict(official_file(kernel_size))
    config = infer_config({name[len('backbone.'):]: value for name, value in converted.items() if name.startswith('backbone.')})
    assert config == dict(arch=dict(depths=(1, 1, 2, 1), channels=(6, 7, 8, 9)), width_factor=1.0, in_channels=3, **kwargs)
