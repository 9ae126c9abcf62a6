"""What belongs to the weights of a file comes along: what its classes are called, and their colours."""
import pytest
import torch
from hostile_helpers import run_tool
from mmengine.runner import CheckpointLoader

from slak_mm.checkpoints import source

OWN = dict(classes=('cat', 'dog'), palette=[[1, 2, 3], [4, 5, 6]])


@pytest.fixture
def weights(official):
    raw = torch.load(official, weights_only=False)['model']
    return {f'backbone.{name}': value for name, value in raw.items() if not name.startswith(('norm', 'head'))}


def loaded(path):
    return CheckpointLoader.load_checkpoint(source(str(path)), 'cpu')['meta']


@pytest.mark.parametrize('meta', [
    dict(dataset_meta=OWN, epoch=3, iter=9), dict(dataset_meta=dict(CLASSES=OWN['classes'], PALETTE=OWN['palette'])),
    dict(CLASSES=OWN['classes'], PALETTE=OWN['palette'], mmseg_version='0.30', config='import os')])
def test_of_published_and_older_files(tmp_path, weights, meta):
    torch.save(dict(meta=meta, state_dict=weights), tmp_path / 'file.pth')
    assert loaded(tmp_path / 'file.pth') == dict(dataset_meta=OWN)
    torch.save(dict(meta=dict(meta, experiment_name='x'), state_dict=weights, message_hub={}), tmp_path / 'own.pth')
    assert loaded(tmp_path / 'own.pth')['dataset_meta'] == OWN and 'config' not in loaded(tmp_path / 'own.pth')


@pytest.mark.parametrize('meta', [{}, None, dict(CLASSES=None), dict(dataset_meta=None, CLASSES=('cat', )), 'text'])
def test_of_files_with_less(tmp_path, weights, meta):
    torch.save(dict(meta=meta, state_dict=weights), tmp_path / 'file.pth')
    assert loaded(tmp_path / 'file.pth').get('dataset_meta', {}).get('classes') in (None, ('cat', ))


@pytest.mark.parametrize('options', [[], ['--deploy']])
def test_of_converted_files(tmp_path, weights, options, capsys):
    torch.save(dict(meta=dict(CLASSES=OWN['classes']), state_dict=weights), tmp_path / 'file.pth')
    run_tool('convert_checkpoint', tmp_path / 'file.pth', tmp_path / 'out.pth', *options)
    assert loaded(tmp_path / 'out.pth') == dict(dataset_meta=dict(classes=OWN['classes']))
