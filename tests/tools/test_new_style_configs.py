"""A config whose types are classes, without a default scope, does in each tool what the same in text does."""
import pytest
import torch
from hostile_helpers import read, run_tool
from mmengine import Config
from new_style import write_new_style

from slak_mm import toy
from slak_mm.checks import load_config
from slak_mm.registry import library_of

WRITERS = dict(slak_micro_toy_in1k=toy.write_imagenet, upernet_slak_micro_sparse_toy_ade20k=toy.write_ade20k,
               cascade_mask_rcnn_slak_micro_toy_coco=toy.write_coco)


@pytest.fixture(scope='module', params=WRITERS)
def case(request, tmp_path_factory):
    """A folder with ``text.py`` and ``classes.py``, the same config in both styles, and data."""
    folder = tmp_path_factory.mktemp('styles')
    WRITERS[request.param](folder / 'data', toy.ToySpec(num_train=4, num_val=2, size=(64, 80)))
    cfg = read(request.param, folder / 'data')
    cfg.model.backbone.norm_cfg = dict(type='BN')
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.get('max_iters', 1)
    cfg.dump(folder / 'text.py')
    write_new_style(cfg, folder / 'classes.py')
    for style in ('text', 'classes'):
        run_tool('train', folder / f'{style}.py', '--work-dir', folder / style, '--quiet')
    return folder, folder / f'classes/{(folder / "classes/last_checkpoint").read_text().rpartition("/")[2]}'


@pytest.mark.slow
def test_the_same_weights(case):
    folder, checkpoint = case
    one, other = (torch.load(folder / style / checkpoint.name, weights_only=False) for style in ('text', 'classes'))
    assert all(torch.equal(value, other['state_dict'][name]) for name, value in one['state_dict'].items())
    assert one.keys() == other.keys() and 'data_position' in other


@pytest.mark.slow
def test_tools(case, capsys):
    folder, checkpoint = case
    config = folder / 'classes.py'
    library = library_of(load_config(config))
    assert library == library_of(Config.fromfile(folder / 'text.py'))
    run_tool('test', config, checkpoint, '--work-dir', folder / 'test', '--show-dir', folder / 'shown', '--deploy', '--amp',
             '--quiet')
    assert [path for path in (folder / 'shown').rglob('*') if path.suffix in ('.jpg', '.png')]
    if library != 'mmdet':  # mmdet's cascade cannot merge the masks of no object, and this one sees none
        run_tool('test', config, checkpoint, '--work-dir', folder / 'tta', '--tta', '--quiet')
    images = next(path.parent for path in (folder / 'data').rglob('*') if path.suffix in ('.jpg', '.JPEG'))
    run_tool('predict', images, config, checkpoint, '--out', folder / 'out', '--device', 'cpu', '--amp')
    assert list((folder / 'out').rglob('*.*'))
    run_tool('recalibrate_bn', config, checkpoint, folder / 'recalibrated.pth', '--num-iters', 1, '--amp')
    run_tool('get_flops', config, '--shape', 64, 64, '--allocation', 'erk', '--sparsity', .4)
    run_tool('train', config, '--work-dir', folder / 'amp', '--amp', '--quiet')
    assert (folder / 'amp/last_checkpoint').is_file()
