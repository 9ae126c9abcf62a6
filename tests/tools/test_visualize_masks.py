import json

import pytest
import torch
from hostile_helpers import run_tool
from PIL import Image
from torch import nn

from slak_mm.sparsity import DynamicSparsity


@pytest.fixture
def draw(capsys):
    """Runs the tool in this process; returns what it printed."""

    def run(*args):
        run_tool('visualize_masks', *args)
        return capsys.readouterr().out

    return run


@pytest.fixture
def run(tmp_path):
    """Four checkpoints of a run that adapts its masks after each step."""
    model = nn.Sequential(nn.Conv2d(4, 4, (9, 3), padding=(4, 1), groups=4), nn.Conv2d(4, 4, 1))
    optimizer = torch.optim.SGD(model.parameters(), .1)
    sparsity = DynamicSparsity(model, 5, .5, init='uniform', interval=1)
    sparsity.initialize()
    for step in range(1, 5):
        model(torch.randn(2, 4, 9, 9)).square().mean().backward()
        optimizer.step()
        sparsity.step(optimizer)
        torch.save(dict(state_dict=model.state_dict(), sparsity=sparsity.state_dict()), tmp_path / f'iter_{step}.pth')
    return tmp_path, sparsity.masks


def test_pictures_and_numbers(draw, run, tmp_path):
    folder, masks = run
    printed = draw(folder, '--kernels', '2', '--out', tmp_path / 'out', '--gif')
    numbers = json.loads((tmp_path / 'out/masks.json').read_text())
    assert list(numbers) == ['1', '2', '3', '4']
    last = numbers['4']
    assert last['total'] == dict(weights=masks.total, density=masks.density, ever_active=masks.ever_active_share)
    assert {name: row['density'] for name, row in last.items() if name != 'total'} == masks.densities()
    assert f'4: {masks.ever_active_share:.1%}' in printed and '0.weight' in printed
    with Image.open(tmp_path / 'out/mask_strip.gif') as gif:
        assert gif.n_frames == 4
    for name in ('mask_strip.png', 'density.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 2_000


def test_errors_are_one_line(draw, run, tmp_path):
    folder, _ = run
    (tmp_path / 'empty').mkdir()
    for args, message in (([tmp_path / 'empty'], 'no checkpoint with masks'), ([tmp_path / 'none.pth'], 'none.pth is not there'),
                          ([folder, '--layers', 'stem'], 'no depthwise layer with a mask matches stem; there are: 0.weight')):
        with pytest.raises(SystemExit, match=f'^error: .*{message}'):
            draw(*args)
