"""Checkpoints that nobody should load, by every way in: the converter, ``init_cfg``, testing and resuming."""
import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from slak_mm.checkpoints import CheckpointError
from slak_mm.models import SLaK

KERNEL, GAMMA, NORM = 'stages.0.0.large_kernel.LoRA1.conv.weight', 'stages.0.0.gamma', 'stages.2.1.norm.weight'


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Stated(Call):
    """Pickles as a call, and a state for what it returns."""

    def __init__(self, state, function, *args):
        super().__init__(function, *args)
        self.state = state

    def __reduce__(self):
        return (*self.call, self.state)


def view(weight, shape, stride):
    return Call(torch._utils._rebuild_tensor_v2, weight.storage(), 0, shape, stride, False, OrderedDict())


def holding_itself():
    value = []
    value.append(value)
    return value


def zipped(content: bytes, edit=lambda name, data: data, compression=zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, 'w', compression) as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))
    return out.getvalue()


def flip(content: bytes, place: float) -> bytes:
    i = int(place * len(content))
    return content[:i] + bytes([content[i] ^ 16]) + content[i + 1:]


# numpy would take the bytes for the address of an object
OBJECTS_AS_BYTES = Stated((3, '|', None, None, None, -1, -1, 0), np.dtype, 'O', False, True)
OBJECT_SCALAR = Call(np.float64(0).__reduce__()[0], OBJECTS_AS_BYTES, b'A' * 8)


def swap(name, value):
    """One weight replaced; by a function of it, or a value."""

    def make(weights, _):
        return dict(model={**weights, name: value(weights[name]) if callable(value) else value})

    return make


def without(name):
    return lambda weights, _: dict(model={key: value for key, value in weights.items() if key != name})


def beside(**entries):
    """The weights as they are, and something beside them."""
    return lambda weights, ran: dict(model=weights, **{key: value(ran) for key, value in entries.items()})


def spoil(name, value):

    def change(weight):
        weight = weight.clone()
        weight.flatten()[0] = value
        return weight

    return swap(name, change)


def other(**kwargs):
    arguments = dict(arch=dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20)), norm_cfg=dict(type='BN'), **kwargs)
    return lambda *_: dict(model=SLaK(**arguments).state_dict())


def quantized(weight):
    return torch.quantize_per_tensor(weight, .1, 0, torch.qint8)


# name: (what is saved, words of the line, other words where it meets a model)
OBJECTS = {
    'system': (beside(args=lambda ran: Call(os.system, f'touch {ran}')), 'holds code or objects'),
    'eval': (beside(args=lambda ran: Call(eval, f"open({str(ran)!r}, 'w')")), 'eval)'),
    'exec in the weights': (lambda weights, ran: dict(model={**weights, GAMMA: Call(exec, f"open({str(ran)!r}, 'w')")}), 'exec)'),
    'open': (beside(args=lambda ran: Call(open, str(ran), 'w')), 'holds code or objects'),
    'nested pickle': (beside(args=lambda ran: Call(pickle.loads, pickle.dumps(Call(open, str(ran), 'w')))), 'holds code or objects'),
    'getattr': (beside(args=lambda ran: Call(getattr, OrderedDict, '__init__')), 'is not allowed in a checkpoint'),
    'setstate': (beside(args=lambda ran: Stated({'x': Call(os.system, f'touch {ran}')}, argparse.Namespace)), 'holds code or objects'),
    'partial': (beside(args=lambda ran: partial(os.system, f'touch {ran}')), 'functools.partial'),
    'objects that pass for numbers': (beside(args=lambda ran: OBJECT_SCALAR), 'case.pth'),
    'torch.load': (beside(args=lambda ran: Call(torch.load, str(ran))), 'torch.serialization.load'),
    'a module': (beside(args=lambda ran: torch.nn.Linear(1, 1)), 'torch.nn'),
    'a path': (beside(args=lambda ran: ran), 'pathlib'),
    'a list': (lambda weights, _: [weights], 'not a dict of weights'),
    'a tensor': (lambda weights, _: weights[GAMMA], 'not a dict of weights'),
    'nothing': (lambda *_: {}, 'weights neither at its top level'),
    'no weights': (lambda *_: dict(model=dict(epoch=3)), 'weights neither at its top level'),
    'holding itself': (lambda weights, _: dict(model={**weights, GAMMA: holding_itself()}), "'stages.0.0.gamma' is of type list"),
    'NaN': (spoil(KERNEL, float('nan')), f"'{KERNEL}' has values that are NaN"),
    'Inf': (spoil(NORM, float('inf')), f"'{NORM}' has values that are NaN or infinite"),
    'NaN in half': (swap(NORM, lambda weight: (weight / 0 * 0).half()), 'NaN'),
    'integers': (swap(KERNEL, lambda weight: weight.int()), f"'{KERNEL}' is of type torch.int32, not float"),
    'bytes': (swap(GAMMA, lambda weight: weight.byte()), 'torch.uint8, not float'),
    'complex': (swap(KERNEL, lambda weight: weight.to(torch.complex64)), 'torch.complex64, not float'),
    'booleans': (swap(NORM, lambda weight: weight > 0), 'torch.bool, not float'),
    'text for a weight': (swap(NORM, 'abc'), f"'{NORM}' is of type str, not float"),
    'numbers for names': (lambda weights, _: dict(model={**weights, 3: weights[GAMMA]}), '3 is no name of a weight'),
    'sparse': (swap(KERNEL, lambda weight: weight.to_sparse()), 'is sparse, quantized, nested or without data'),
    'quantized': (swap(KERNEL, quantized), 'is sparse, quantized, nested or without data'),
    'without data': (swap(KERNEL, lambda weight: weight.to('meta')), 'is sparse, quantized, nested or without data'),
    'terabytes by a stride of 0': (swap(KERNEL, lambda weight: view(weight, (10**13, ), (0, ))), 'claims 10,000,000,000,000 values'),
    'terabytes': (swap(KERNEL, lambda weight: view(weight, (10**13, ), (1, ))), 'cannot be read'),
    'a negative shape': (swap(KERNEL, lambda weight: view(weight, (-5, ), (1, ))), 'cannot be read'),
    'a negative stride': (swap(KERNEL, lambda weight: view(weight, (2, 2), (-1, 1))), 'cannot be read'),
    'outside its storage': (swap(KERNEL, lambda weight: view(weight, (weight.numel() + 1, ), (1, ))), 'cannot be read'),
    'another dimension': (swap(KERNEL, lambda weight: weight.flatten()), 'not those of a whole SLaK', KERNEL.replace('LoRA1', 'tall')),
    'transposed': (swap('stages.0.0.pwconv1.weight', lambda weight: weight.T), 'stages.0.0.pwconv1.weight'),
    'a number for a weight': (swap('stages.0.0.norm.bias', lambda weight: weight.sum()), 'stages.0.0.norm.bias'),
    'one key missing': (without(NORM), NORM),
    'the stem missing': (without('downsample_layers.0.0.weight'), 'holds no SLaK'),
    'a kernel missing': (without('stages.3.0.large_kernel.LoRA2.conv.weight'), 'stages.3.0.large_kernel.wide.conv.weight'),
    'an extra key': (swap('stages.0.0.more.weight', torch.ones(2)), 'stages.0.0.more.weight'),
    'a key twice': (swap(KERNEL.replace('LoRA1', 'tall'), torch.ones(2)), 'one weight under two names'),
    'keys of another network': (lambda *_: {'conv1.weight': torch.ones(1), 'layer1.0.weight': torch.ones(1)}, 'holds no SLaK'),
    'renamed keys': (lambda weights, _: dict(model={name.replace('stages', 'stage'): value for name, value in weights.items()}),
                     'not those of a whole SLaK', 'does not fit the backbone; nothing was loaded'),
}
# of the file itself
NESTED = b'\x80\x02}X\x01\0\0\0a' + b']' * 10**5 + b'a' * (10**5 - 1) + b's.'  # {'a': [[[ ... ]]]}
CONTENTS = {
    'empty': (lambda content: b'', 'cut short'),
    'text': (lambda content: b'<!DOCTYPE html><title>404 Not Found</title>', 'is not a checkpoint'),
    'zeros': (lambda content: bytes(len(content)), 'is not a checkpoint'),
    'half': (lambda content: content[:len(content) // 2], 'cut short'),
    'a byte short': (lambda content: content[:-1], 'cannot be read'),
    'a bit flipped in the first third': (lambda content: flip(content, .3), 'checksum'),
    'a bit flipped in the middle': (lambda content: flip(content, .5), 'checksum'),
    'a bit flipped in the list of entries': (lambda content: flip(content, .99), 'cannot be read'),
    'compressed': (lambda content: zipped(content, compression=zipfile.ZIP_DEFLATED), 'PyTorch does not compress'),
    'a bomb': (lambda content: zipped(content, lambda name, data: data + bytes(10**8 if name.endswith('/data/0') else 0),
                                      zipfile.ZIP_DEFLATED), 'unpacks to 10'),
    'a bomb without a pickle': (lambda content: zipped(content, lambda name, data: bytes(10**4), zipfile.ZIP_BZIP2), 'unpacks to'),
    'an entry cut short': (lambda content: zipped(content, lambda name, data: data[:8] if '/data/' in name else data),
                           'cannot be read'),
    'nested without end': (lambda content: zipped(content, lambda name, data: NESTED if name.endswith('data.pkl') else data),
                           'weights neither at its top level'),
    'without its pickle': (lambda content: zipped(content, lambda name, data: b'' if name.endswith('data.pkl') else data),
                           'cannot be read'),
}
# files that are sound, of another model than the config's
OTHERS = {
    'another arch': (other(width_factor=2.), "'channels': (16, 24, 32, 40)"),
    'other kernels': (other(kernel_sizes=(31, 29, 27, 13)), 'kernel_sizes=(31, 29, 27, 13),  # instead of (51, 49, 47, 13)'),
    'another small kernel': (other(small_kernel_size=3), 'small_kernel_size=3,  # instead of 5'),
    'another form': (other(large_kernel='naive'), "large_kernel='naive',  # instead of 'decomposed'"),
    'merged kernels': (other(deploy=True), 'deploy=True'),
    'gray images': (other(in_channels=1), 'in_channels=1,  # instead of 3'),
}


@pytest.fixture(scope='module')
def weights(request):
    return torch.load(request.config.rootpath / 'tests/data/slak_micro.pth', weights_only=True)['model']


@pytest.fixture
def target(tmp_path):
    """The file that hostile code makes, if it runs."""
    yield tmp_path / 'ran'
    assert not (tmp_path / 'ran').exists()


@pytest.fixture
def make(weights, official, tmp_path, target):
    """Writes a case's file."""

    def write(case, legacy=False):
        path = tmp_path / 'case.pth'
        content, *words = (OBJECTS | CONTENTS | OTHERS)[case]
        if case in CONTENTS:
            path.write_bytes(content(official.read_bytes()))
        else:
            torch.save(content(weights, target), path, _use_new_zipfile_serialization=not legacy)
        return path, words

    return write


@pytest.mark.parametrize('case', [*OBJECTS, *CONTENTS])
def test_the_converter_refuses(refused, make, tmp_path, case):
    path, words = make(case)
    refused('convert_checkpoint', path, tmp_path / 'out.pth', words=[words[0], 'case.pth'])
    assert not (tmp_path / 'out.pth').exists()


def record(prefixes, state_dict, prefix, *_):
    prefixes.append(prefix)


def assert_init_refuses(micro, path, words):
    """By the backbone's init_cfg, and by a whole model's; every parameter stays as it was."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    pooling = dict(micro, out_indices=-1, gap_before_final_norm=True)
    for model in (SLaK(**micro, init_cfg=init_cfg),
                  MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=dict(type='slak_mm.SLaK', **pooling),
                                    head=dict(type='mmpretrain.LinearClsHead', num_classes=7, in_channels=26), init_cfg=init_cfg))):
        names = [name for name, _ in model.named_parameters()]
        prefixes = []
        for module in model.modules():
            module._register_load_state_dict_pre_hook(partial(record, prefixes))
        with pytest.raises(CheckpointError) as error:
            model.init_weights()
        assert words[-1] in str(error.value) and 'case.pth' in str(error.value)
        # a module whose loading begins has its parameters filled by the time its children's begins
        assert not any(f'{prefix}weight' in names for prefix in prefixes)


@pytest.mark.parametrize('case', [*OBJECTS, *CONTENTS, *OTHERS])
def test_init_cfg_refuses_and_loads_nothing(micro, make, case):
    path, words = make(case)
    assert_init_refuses(micro, path, words)


@pytest.mark.parametrize('case', ['system', 'exec in the weights', 'getattr', 'NaN', 'quantized', 'terabytes by a stride of 0',
                                  'terabytes', 'outside its storage', 'other kernels'])
def test_the_format_before_torch_1_6(micro, make, case):
    """It has neither checksums nor sizes to compare."""
    path, words = make(case, legacy=True)
    assert_init_refuses(micro, path, words)


@pytest.mark.parametrize('case', ['system', 'NaN', 'half', 'a bomb', 'renamed keys', 'other kernels'])
@pytest.mark.parametrize('tool', ['test', 'predict', 'recalibrate_bn', 'export_onnx'])
def test_each_tool_refuses(refused, make, good, tmp_path, tool, case):
    if tool == 'export_onnx':
        pytest.importorskip('onnxscript')
    path, words = make(case)
    args = dict(test=['--work-dir', tmp_path], recalibrate_bn=[tmp_path / 'out.pth'], export_onnx=[tmp_path / 'out.onnx'], predict=[])
    images = [good.data / 'images/validation'] if tool == 'predict' else []
    refused(tool, *images, good.config, path, *args[tool], words=[words[-1], 'case.pth'])
    assert not (tmp_path / 'out.pth').exists() and not (tmp_path / 'out.onnx').exists()
