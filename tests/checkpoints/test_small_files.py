"""Files without zeros, and safetensors: exact, small, and as safe as any other."""
import importlib
import json
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.checkpoints import CheckpointError, PretrainedInit, load_file
from slak_mm.checkpoints.packed import PACKED, pack_weights, unpack_weights
from slak_mm.checkpoints.safetensors import is_safetensors, read_safetensors, write_safetensors
from slak_mm.errors import UserError
from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
WEIGHTS = st.builds(
    lambda shape, density, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                                         * (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density)).to(dtype),
    st.lists(st.integers(0, 5), max_size=4), st.sampled_from([0, .5, .95, 1]), st.sampled_from(DTYPES), st.integers(0, 99))
STATE = st.dictionaries(st.text('ab.é', min_size=1), WEIGHTS, max_size=5)


def same(a, b):
    return sorted(a) == sorted(b) and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def slak():
    torch.manual_seed(0)
    return SLaK(dict(depths=(1, 1, 1, 1), channels=(32, 32, 64, 96)), kernel_sizes=(7, 7, 5, 3), small_kernel_size=3,
                norm_cfg=dict(type='BN'))


@settings(max_examples=40, deadline=None)
@given(state=STATE)
def test_packed_and_back(state):
    packed = pack_weights(dict(meta=dict(epoch=1), state_dict=state))
    assert same(unpack_weights(packed)['state_dict'], state)
    assert unpack_weights(packed).keys() == {'meta', 'state_dict'}


def test_at_40_percent_zeros_063_of_the_size(tmp_path):
    model = slak()
    sparsity = DynamicSparsity(model, 10, init='erk')
    sparsity.initialize()
    state = model.state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'plain.pth')
    torch.save(pack_weights(dict(state_dict=state)), tmp_path / 'packed.pth')
    sizes = [(tmp_path / f'{name}.pth').stat().st_size for name in ('plain', 'packed')]
    assert round(sizes[1] / sizes[0], 2) <= .65  # names and norms weigh more here than in a SLaK-T
    assert same(load_file(str(tmp_path / 'packed.pth'))['state_dict'], state)
    again = slak()
    PretrainedInit(checkpoint=str(tmp_path / 'packed.pth'))(again)
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), model.parameters()))


@pytest.mark.parametrize('change', [
    lambda entry: entry.pop('bits'), lambda entry: entry.update(shape=[9999, 9999]), lambda entry: entry.update(shape=[-1, -8]),
    lambda entry: entry.update(values=entry['values'][1:]), lambda entry: entry.update(values=entry['values'].long()),
    lambda entry: entry.update(bits=entry['bits'].float()), lambda entry: entry.update(shape='x'),
    lambda entry: entry.update(values=3),
])
def test_damaged_packed_weights(tmp_path, change):
    packed = pack_weights(dict(state_dict=dict(a=torch.eye(8), b=torch.ones(3))))
    assert list(packed[PACKED]['weights']) == ['a'] and list(packed['state_dict']) == ['b']
    change(packed[PACKED]['weights']['a'])
    torch.save(packed, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='its packed weights are damaged'):
        load_file(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize('packed', [
    None, {}, dict(names=['b'], weights={}), dict(names=['b', 'c'], weights={}), dict(names=[], weights={})])
def test_damaged_lists_of_packed_weights(packed):
    checkpoint = dict(state_dict=dict(b=torch.ones(3)), packed=packed)
    if packed and packed['names'] == ['b']:
        assert same(unpack_weights(checkpoint)['state_dict'], checkpoint['state_dict'])
    else:
        with pytest.raises(ValueError):
            unpack_weights(checkpoint)


@settings(max_examples=40, deadline=None)
@given(state=STATE)
def test_safetensors_and_back(tmp_path_factory, state):
    path = str(tmp_path_factory.mktemp('safe') / 'a.safetensors')
    write_safetensors(path, state, dict(dataset_meta=dict(classes=['a', 'é'])))
    read = load_file(path)
    assert is_safetensors(path) and same(read['state_dict'], state) and read['meta'] == dict(dataset_meta=dict(classes=['a', 'é']))


def test_safetensors_of_others(tmp_path):
    state = dict(a=torch.randn(3, 4), b=torch.ones(2, dtype=torch.bfloat16), c=torch.tensor(3))
    safetensors.torch.save_file(state, tmp_path / 'theirs.safetensors')
    write_safetensors(str(tmp_path / 'ours.safetensors'), state, {})
    theirs = read_safetensors(str(tmp_path / 'theirs.safetensors'))['state_dict']
    assert all(torch.equal(theirs[name], value) for name, value in state.items())
    ours = safetensors.torch.load_file(tmp_path / 'ours.safetensors')
    assert all(torch.equal(ours[name], value) for name, value in state.items())


def test_without_its_package(tmp_path, monkeypatch):
    path = str(tmp_path / 'a.safetensors')
    write_safetensors(path, dict(a=torch.ones(1)), {})
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(UserError, match='pip install safetensors'):
        load_file(path)


@pytest.mark.parametrize('entry', [
    dict(dtype='F32', shape=[2], data_offsets=[0, 4]), dict(dtype='F32', shape=[2], data_offsets=[4, 12]),
    dict(dtype='F99', shape=[2], data_offsets=[0, 8]), dict(dtype='F32', shape=[-1, -2], data_offsets=[0, 8]),
    dict(dtype='F32', shape=[2, 10**12], data_offsets=[0, 8]), dict(dtype='F32', shape=[2]), 7,
    dict(dtype='F32', shape=[True, 2], data_offsets=[0, 8]), dict(dtype='F32', shape=[1], data_offsets=[0, 4]),
])
def test_damaged_safetensors(tmp_path, entry):
    header = json.dumps(dict(a=entry)).encode()
    path = tmp_path / 'a.safetensors'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(8))
    with pytest.raises(CheckpointError, match='cannot be read'):
        load_file(str(path))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 40))
def test_any_damage_is_refused_or_harmless(tmp_path_factory, place, byte, cut):
    path = tmp_path_factory.mktemp('safe') / 'a.safetensors'
    write_safetensors(str(path), dict(a=torch.ones(2, 3), b=torch.zeros(4)), dict(x=1))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content[:len(content) - cut])
    try:
        assert sum(value.numel() for value in load_file(str(path))['state_dict'].values()) <= 40
    except CheckpointError as error:
        assert str(path) in str(error) and '\n' not in str(error)


def test_the_tool(request, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(request.config.rootpath / 'tools'))
    main = importlib.import_module('convert_checkpoint').main
    official = str(request.config.rootpath / 'tests/data/slak_micro.pth')
    for name, options in (('plain.pth', []), ('packed.pth', ['--packed']), ('a.safetensors', [])):
        main([official, str(tmp_path / name), *options])
    files = [load_file(str(tmp_path / name)) for name in ('plain.pth', 'packed.pth', 'a.safetensors')]
    assert all(same(file['state_dict'], files[0]['state_dict']) for file in files)
    assert files[2]['meta'] == files[0]['meta'] and (tmp_path / 'packed.pth').stat().st_size < (tmp_path / 'plain.pth').stat().st_size
    main([str(tmp_path / 'a.safetensors'), str(tmp_path / 'again.pth')])
    assert same(load_file(str(tmp_path / 'again.pth'))['state_dict'], files[0]['state_dict'])
    with pytest.raises(SystemExit):
        main([official, str(tmp_path / 'b.safetensors'), '--packed'])
