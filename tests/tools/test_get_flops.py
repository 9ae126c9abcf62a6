"""tools/get_flops.py on micro models of the three libraries."""
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from slak_mm.analysis import config_flops, flops, paper_flops
from slak_mm.checkpoints import CheckpointError, convert_state_dict, infer_config
from slak_mm.sparsity import Masks, maskable

ROOT = Path(__file__).parents[2]
CLASSIFIER, SEGMENTOR, DETECTOR = (str(ROOT / 'configs' / name) for name in (
    'slak_t_300e_in1k.py', 'upernet_slak_micro_toy_ade20k.py', 'cascade_mask_rcnn_slak_micro_toy_coco.py'))
MICRO = ['--cfg-options', 'model.backbone.width_factor=0.1', 'model.head.in_channels=76']


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import get_flops
    yield get_flops
    del sys.modules['get_flops']


@pytest.fixture
def run(tool, capsys):
    """Dense and active parameters, then dense and active multiply-adds, as printed; and all that is."""
    def run(*argv):
        sys.modules['common'].run(tool.main, [str(arg) for arg in argv])
        printed = capsys.readouterr().out
        rows = [re.findall(r'[\d,]{3,}', re.search(rf'{name} .*', printed)[0]) for name in ('parameters', 'multiply-adds')]
        return [int(cell.replace(',', '')) for row in rows for cell in row], printed
    return run


@pytest.fixture
def model():
    return lambda config: config_flops.build(Config.fromfile(config))


@pytest.mark.slow
def test_classifier(run):
    (dense, active, macs, active_macs), printed = run(CLASSIFIER, '--shape', 64, 64, '--by-layer', *MICRO)
    assert dense == active and macs == active_macs > 0
    assert 'head.fc.weight' in printed
    (_, uniform, _, uniform_macs), _ = run(CLASSIFIER, '--shape', 64, 64, '--allocation', 'uniform', '--sparsity', .4, *MICRO)
    assert uniform_macs == pytest.approx(.6 * macs, rel=1e-3) and .6 * dense < uniform < .65 * dense


@pytest.mark.slow
def test_segmentor(run, model):
    (dense, active, macs, active_macs), _ = run(SEGMENTOR, '--shape', 64, 128)
    assert dense == active == sum(p.numel() for p in model(SEGMENTOR).parameters()) and macs == active_macs
    (_, active, _, active_macs), _ = run(SEGMENTOR, '--shape', 64, 128, '--allocation', 'erk', '--sparsity', .4)
    assert active < dense and active_macs < macs


def test_detector(run, model):
    (dense, _, macs, _), printed = run(DETECTOR, '--shape', 64, 64, '--by-layer')
    assert dense == sum(p.numel() for p in model(DETECTOR).parameters())
    cells = {line.split()[1]: float(line.split()[7].replace(',', '')) for line in printed.splitlines() if '.weight' in line}
    # 100 proposals of 7x7, 20 detections of 14x14, and maps of 64x64 at strides 4 to 64; in millions
    assert cells['roi_head.bbox_head.2.shared_convs.0.conv.weight'] == round(100 * 49 * 48 * 48 * 9 / 1e6, 1)
    assert cells['roi_head.mask_head.2.convs.0.conv.weight'] == round(20 * 14 * 14 * 48 * 48 * 9 / 1e6, 1)
    assert cells['rpn_head.rpn_conv.weight'] == round((256 + 64 + 16 + 4 + 1) * 48 * 48 * 9 / 1e6, 1)


def test_masks_and_zeros_of_a_checkpoint(run, model, tmp_path):
    segmentor = model(SEGMENTOR)
    params = maskable(segmentor, only=['backbone'])
    masks = Masks(params)
    masks.assign({name: torch.rand(p.shape) < .5 if 'pwconv' in name else None for name, p in params.items()})
    masks.apply_()
    torch.save(dict(meta={}, message_hub={}, state_dict=segmentor.state_dict(), sparsity=dict(masks=masks.state_dict())),
               tmp_path / 'masks.pth')
    torch.save(dict(meta={}, message_hub={}, state_dict=segmentor.state_dict()), tmp_path / 'zeros.pth')
    (dense, active, macs, active_macs), printed = run(SEGMENTOR, '--shape', 64, 64, '--checkpoint', tmp_path / 'masks.pth')
    assert active == dense - masks.total + masks.nonzero and active_macs < macs
    zeros, _ = run(SEGMENTOR, '--shape', 64, 64, '--checkpoint', tmp_path / 'zeros.pth')
    assert zeros == [dense, active, macs, active_macs]


def test_zeros_of_an_official_file(official):
    weights = convert_state_dict(torch.load(official, weights_only=True)['model'])
    backbone = infer_config({name[len('backbone.'):]: value for name, value in weights.items() if name.startswith('backbone.')})
    cfg = Config.fromfile(CLASSIFIER)
    cfg.model.backbone = dict(type='slak_mm.SLaK', **backbone)
    classes, in_channels = weights['head.fc.weight'].shape
    cfg.model.head.update(num_classes=classes, in_channels=in_channels)
    densities, origin = config_flops.find_densities(cfg, config_flops.build(cfg), str(official))
    assert densities and origin.startswith('zeros of')
    assert densities == {name: int(weights[name].count_nonzero()) / weights[name].numel() for name in densities}
    assert sum(weights[name].numel() for name in densities) > .5 * sum(w.numel() for w in weights.values())


@pytest.mark.parametrize('argv', [
    [], [CLASSIFIER, '--paper'], ['--paper', '--kernel-scaling'], ['--paper', '--shape', '64', '64'], [CLASSIFIER, '--out', 'x.md'],
    [CLASSIFIER, '--allocation', 'erk'], [CLASSIFIER, '--sparsity', '.4'], [CLASSIFIER, '--shape', '8', '8'],
    [CLASSIFIER, '--allocation', 'erk', '--sparsity', '.4', '--checkpoint', 'x.pth'],
    [CLASSIFIER, '--allocation', 'erk', '--sparsity', '1.5'],
])
def test_options_that_do_not_go_together(tool, argv):
    with pytest.raises(SystemExit) as exit:
        tool.main(argv)
    assert exit.value.code == 2


def test_one_line_errors(tool, tmp_path):
    torch.save(dict(state_dict=dict(other=torch.zeros(1)), message_hub={}), tmp_path / 'other.pth')
    for argv in ([CLASSIFIER, '--checkpoint', tmp_path / 'none.pth', *MICRO], [SEGMENTOR, '--cfg-options', 'default_scope=mmother'],
                 [CLASSIFIER, '--allocation', 'erk', '--sparsity', .4, *MICRO, 'model.backbone.deploy=True'],
                 [CLASSIFIER, *MICRO, 'model.backbone.small_kernel_size=4']):
        with pytest.raises(SystemExit, match='^error: [^\n]+$'):
            sys.modules['common'].run(tool.main, [str(arg) for arg in argv])
    with pytest.raises(CheckpointError, match='has no weight of this model'):
        tool.main([CLASSIFIER, '--checkpoint', str(tmp_path / 'other.pth'), *MICRO])


@pytest.mark.slow
def test_paper(tool, tmp_path, monkeypatch, capsys):
    rows = [row for row in paper_flops.paper_rows() if row.table == '1']
    monkeypatch.setattr(paper_flops, 'paper_rows', lambda: rows)
    tool.main(['--paper', '--out', str(tmp_path / 'flops.md')])
    table = (tmp_path / 'flops.md').read_text().splitlines()
    assert len(table) == 2 + len(rows) and table[2].startswith('| 1 | naive, 7 | 28.6 | 29 | -1.4% | 4.46 | 4.5 | -1.0% | yes |')
    assert sum('| no: ' in line for line in table) == 1 and 'not explained' not in capsys.readouterr().out


def test_kernel_scaling(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(flops, 'KERNEL_SIZES', (7, 9))
    monkeypatch.setattr(flops, 'kernel_scaling', lambda: {
        form: [flops.Complexity([], 10 * (i + 1), 20 * (i + 1)) for i in range(2)] for form in ('naive', 'decomposed')})
    tool.main(['--kernel-scaling', '--out', str(tmp_path / 'scaling.png')])
    assert (tmp_path / 'scaling.png').stat().st_size > 1000
