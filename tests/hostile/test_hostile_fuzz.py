"""The converter on anything: whatever it is given, it returns weights under our names or raises CheckpointError."""
import re

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slak_mm.checkpoints import CheckpointError, adapt_state_dict, convert_state_dict, infer_config, select_state_dict
from slak_mm.checkpoints.file import load_file
from slak_mm.checkpoints.names import OFFICIAL_NAMES
from slak_mm.models import SLaK

EXAMPLES = dict(deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])
torch.manual_seed(0)  # the bytes that test_bytes damages
MICRO = SLaK(arch=dict(depths=(1, 1, 2, 1), channels=(1, 2, 3, 4)), width_factor=1., kernel_sizes=(7, 5, 5, 5), small_kernel_size=3,
             norm_cfg=dict(type='BN'))
WEIGHTS = {**{re.sub(r'\.tall\.', '.LoRA1.', re.sub(r'\.wide\.', '.LoRA2.', name)).replace('norm3', 'norm'): value
              for name, value in MICRO.state_dict().items()}, 'head.weight': torch.ones(3, 4), 'head.bias': torch.ones(3)}

parts = st.sampled_from([
    *OFFICIAL_NAMES, *OFFICIAL_NAMES.values(), 'stages', 'downsample_layers', 'large_kernel', 'backbone', 'module', 'norm', 'norm0',
    'norm3', 'head', 'fc', 'gamma', 'weight', 'bias', 'conv', 'bn', 'sequence', 'dilated', '0', '1', '3', '', '.', '-1', '1e3',
    'decode_head', 'running_var', 'num_batches_tracked', 'x' * 300, '\0', 'ä'])
names = st.one_of(st.sampled_from(list(WEIGHTS)), st.lists(parts, max_size=6).map('.'.join), st.text(max_size=8))
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
                          torch.complex64])
tensors = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype), shapes, dtypes)
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=4))
anything = st.recursive(st.one_of(plain, tensors), lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.one_of(names, st.integers()), inner, max_size=3)), max_leaves=6)


@st.composite
def edited(draw):
    """A good file, after some changes."""
    weights = dict(WEIGHTS)
    for kind in draw(st.lists(st.sampled_from(['drop', 'put', 'rename', 'prefix', 'replace', 'cut']), min_size=1, max_size=5)):
        name = draw(st.sampled_from(list(weights))) if weights else ''
        if kind == 'drop':
            weights.pop(name, None)
        elif kind == 'put':
            weights[draw(st.one_of(names, st.integers()))] = draw(st.one_of(tensors, anything))
        elif kind == 'rename' and weights:
            weights[draw(names)] = weights.pop(name)
        elif kind == 'prefix':
            prefix = draw(st.sampled_from(['module.', 'backbone.', 'module.backbone.', 'a.', '.']))
            weights = {f'{prefix}{key}': value for key, value in weights.items()}
        elif kind == 'replace' and weights:
            weights[name] = draw(st.one_of(tensors, anything))
        elif kind == 'cut' and isinstance(weights.get(name), torch.Tensor) and weights[name].ndim:
            weights[name] = weights[name][:draw(st.integers(0, 2))]
    return weights


state_dicts = st.one_of(edited(), st.dictionaries(st.one_of(names, st.integers()), st.one_of(tensors, anything), max_size=8))
prefixes = st.one_of(st.none(), st.sampled_from(['backbone', 'backbone.', 'module.', 'a', '']), st.text(max_size=4))


def convert(checkpoint, key, prefix):
    """All that tools/convert_checkpoint.py and a model do with what a file holds; returns how far it got."""
    try:
        state_dict = select_state_dict(checkpoint, key)
        converted = convert_state_dict(state_dict, prefix)
    except CheckpointError as error:
        assert str(error)
        return 0
    assert converted and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in converted.items())
    assert any(name == 'backbone.downsample_layers.0.0.weight' for name in converted)
    assert not any(re.search(r'\blarge_kernel\.(LoRA\d|Decom\d|small_conv|lkb_\w+)\.', name) for name in converted)
    backbone = {name[len('backbone.'):]: value for name, value in converted.items() if name.startswith('backbone.')}
    before = {name: value.clone() for name, value in MICRO.state_dict().items()}
    try:
        adapt_state_dict(dict(backbone), '', MICRO)
        fits = True
    except CheckpointError:
        fits = False
    assert all(torch.equal(value, before[name]) for name, value in MICRO.state_dict().items())
    try:
        config = infer_config(backbone, SLaK.arch_settings)
    except CheckpointError:
        assert not fits
        return 1
    assert {'arch', 'width_factor', 'in_channels', 'kernel_sizes', 'large_kernel'} <= config.keys()
    assert not fits or config['kernel_sizes'] == (7, 5, 5, 5)
    return 2 + fits


@pytest.mark.slow
@settings(max_examples=1200, **EXAMPLES)
@given(state_dicts, st.one_of(st.none(), st.sampled_from(['model', 'state_dict', 'model_ema'])), prefixes)
@example(WEIGHTS, None, None)
@example({**WEIGHTS, 'large_kernel.LoRA1.bn': torch.ones(1)}, None, None)  # in no stage, and with no dot before it
def test_weights(state_dict, key, prefix):
    reached = convert(state_dict if key is None else {key: state_dict}, key, prefix)
    assert reached == 3 or state_dict is not WEIGHTS


@pytest.mark.slow
@settings(max_examples=1000, **EXAMPLES)
@given(st.dictionaries(st.one_of(st.sampled_from(['model', 'state_dict', 'meta', 'model_ema']), names, st.integers()), anything,
                       max_size=5), st.one_of(st.none(), st.text(max_size=8)))
def test_what_a_file_holds(checkpoint, key):
    convert(checkpoint, key, None)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('fuzz') / 'file.pth'
    content = {}
    for legacy in (False, True):
        torch.save(dict(model=WEIGHTS, epoch=3), path, _use_new_zipfile_serialization=not legacy)
        content[legacy] = path.read_bytes()
    return path, content


@pytest.mark.slow
@settings(max_examples=600, **EXAMPLES)
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4),
       st.floats(0, 1))
@example(False, [], 1.)
@example(True, [], 1.)
def test_bytes(file, legacy, patches, length):
    path, content = file
    damaged = bytearray(content[legacy])
    for place, patch in patches:
        start = int(place * len(damaged))
        damaged[start:start + len(patch)] = patch[:len(damaged) - start]
    damaged = bytes(damaged) if length > .5 else bytes(damaged[:int(2 * length * len(damaged))])
    path.write_bytes(damaged)
    try:
        checkpoint = load_file(str(path))
    except CheckpointError as error:
        assert str(path) in str(error) and damaged != content[legacy]
        return
    # the former format has no checksums: there, damaged weights are read
    assert legacy or all(torch.equal(value, WEIGHTS[name]) for name, value in checkpoint['model'].items())
    convert(checkpoint, None, None)
