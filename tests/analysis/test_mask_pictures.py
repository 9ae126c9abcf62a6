import numpy as np
import pytest
import torch
from torch import nn

from slak_mm.analysis.mask_pictures import (
    ACTIVE,
    BACKGROUND,
    NEVER,
    ONCE,
    canvas,
    kernel_rows,
    read_run,
    read_snapshot,
    select_layers,
    shares,
    short_name,
)
from slak_mm.checkpoints import CheckpointError
from slak_mm.sparsity.masks import Masks, maskable


def model(channels=2):
    return nn.ModuleDict({'dw': nn.Conv2d(channels, channels, (1, 3), groups=channels), 'fc': nn.Linear(4, 5),
                          'dense_dw': nn.Conv2d(2, 2, 3, groups=2)})


def save(path, step, masks):
    torch.save(dict(state_dict={}, sparsity=dict(steps=step, config={}, masks=masks.state_dict())), path)


@pytest.fixture
def run(tmp_path):
    """Two checkpoints: in dw, a tap of kernel 0 moves from place 0 to place 2."""
    masks = Masks(maskable(model()))
    masks.assign({'dw.weight': torch.tensor([[1, 0, 0], [0, 1, 0]]).view(2, 1, 1, 3).bool(), 'dense_dw.weight': None,
                  'fc.weight': torch.ones(5, 4).bool()})
    save(tmp_path / 'iter_9.pth', 9, masks)
    masks.exchange('dw.weight', torch.tensor([0]), torch.tensor([2]))
    save(tmp_path / 'iter_10.pth', 10, masks)
    return tmp_path


def test_values_of_each_snapshot(run):
    first, last = read_run([run])
    assert (first.step, last.step, last.path.name) == (9, 10, 'iter_10.pth')
    assert first.layers['dw.weight'].reshape(2, 3).tolist() == [[ACTIVE, NEVER, NEVER], [NEVER, ACTIVE, NEVER]]
    assert last.layers['dw.weight'].reshape(2, 3).tolist() == [[ONCE, NEVER, ACTIVE], [NEVER, ACTIVE, NEVER]]
    assert last.layers['dense_dw.weight'].shape == (2, 1, 3, 3) and (last.layers['dense_dw.weight'] == ACTIVE).all()


def test_shares(run):
    last = shares(read_run([run])[-1])
    assert last['dw.weight'] == dict(weights=6, density=2 / 6, ever_active=3 / 6)
    assert last['dense_dw.weight'] == dict(weights=18, density=1., ever_active=1.)
    assert last['total'] == dict(weights=44, density=40 / 44, ever_active=41 / 44)


def test_checkpoints_of_one_step_count_once(run):
    (run / 'best.pth').write_bytes((run / 'iter_9.pth').read_bytes())
    (run / 'dense.pth').write_bytes(b'')
    assert [snapshot.step for snapshot in read_run([run])] == [9, 10]
    assert [snapshot.step for snapshot in read_run([run / 'iter_10.pth', run / 'iter_9.pth'])] == [9, 10]


def test_strip(run):
    snapshots = read_run([run])
    rows = kernel_rows(snapshots, ['dw.weight', 'dense_dw.weight'], kernels=1)
    assert list(rows) == ['dw [0]', 'dense_dw [0]']
    picture = canvas(list(rows.values()), gap=1)
    b = BACKGROUND
    assert picture.tolist() == [
        [b] * 10,
        [b, ACTIVE, NEVER, NEVER, b, b, ONCE, NEVER, ACTIVE, b],
        [b] * 10,
        [b] * 10,
        *[[b, ACTIVE, ACTIVE, ACTIVE, b] * 2] * 3,
        [b] * 10,
    ]
    assert len(kernel_rows(snapshots, ['dw.weight'], kernels=9)) == 2


def test_short_names():
    assert short_name('backbone.stages.0.0.large_kernel.tall.conv.weight') == 'stages.0.0.large_kernel.tall'
    assert short_name('fc.weight') == 'fc'


def test_small_pictures_are_centred():
    small, large = np.full((1, 1), ACTIVE), np.full((3, 3), NEVER)
    picture = canvas([[small, large], [small, large]], gap=0)
    assert picture.shape == (6, 4) and picture[:, 0].tolist() == [BACKGROUND, ACTIVE, BACKGROUND] * 2
    assert canvas([[small], [large]], gap=0)[:, 1].tolist() == [ACTIVE, NEVER, NEVER, NEVER]


def test_choice_of_layers(run):
    snapshot = read_run([run])[0]
    assert select_layers(snapshot) == ['dw.weight']
    assert select_layers(snapshot, ['dense']) == ['dense_dw.weight']
    with pytest.raises(ValueError, match='matches stem; there are: dw.weight, dense_dw.weight'):
        select_layers(snapshot, ['dw', 'stem'])
    snapshot.layers = {'stages.0.0.large_kernel.tall.conv.weight': np.zeros((2, 1, 5, 3)), 'fc.weight': np.zeros((2, 2)),
                       'stages.0.0.large_kernel.wide.conv.weight': np.zeros((2, 1, 3, 5)),
                       'stages.0.1.large_kernel.tall.conv.weight': np.zeros((2, 1, 3, 5))}
    assert select_layers(snapshot) == [*snapshot.layers][:3:2]


def test_errors(run, tmp_path_factory):
    empty = tmp_path_factory.mktemp('empty')
    with pytest.raises(CheckpointError, match='no checkpoint with masks. It has no'):
        read_run([empty])
    torch.save(dict(state_dict={}), empty / 'dense.pth')
    with pytest.raises(CheckpointError, match='saved without SparsityHook'):
        read_run([empty])
    with pytest.raises(FileNotFoundError):
        read_snapshot(empty / 'none.pth')
    other = Masks(maskable(model(channels=3)))
    save(empty / 'other.pth', 11, other)
    with pytest.raises(CheckpointError, match='different models'):
        read_run([run, empty / 'other.pth'])
    (empty / 'iter_9.pth').write_bytes((run / 'iter_10.pth').read_bytes())
    checkpoint = torch.load(empty / 'iter_9.pth', weights_only=True)
    checkpoint['sparsity']['steps'] = 9
    torch.save(checkpoint, empty / 'iter_9.pth')
    with pytest.raises(CheckpointError, match='different masks of step 9: give the checkpoints of one run'):
        read_run([run, empty / 'iter_9.pth'])


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Evil:

        def __reduce__(self):
            return print, ('run', )

    torch.save(dict(sparsity=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='Nothing was run'):
        read_snapshot(tmp_path / 'evil.pth')
