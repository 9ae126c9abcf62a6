"""What zeros save: compacted models of the study on photos beside the dense one."""
import pytest
import torch
from mmengine.config import Config

from slak_mm.analysis.studies import photos, speed
from slak_mm.analysis.studies.execute import run_folder
from slak_mm.errors import InputError
from slak_mm.models.build import build_model
from slak_mm.sparsity import DynamicSparsity
from slak_mm.zoo import find_config

NEURONS = '51, neurons, dynamic (random)'
CONFIGS = find_config('slak_t_300e_in1k.py').parent


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory):
    """A study of which two variants were trained: at initial weights, of which some are zero."""
    root = tmp_path_factory.mktemp('study')
    for i in range(20):
        path = root / 'photos' / ('hat', 'shoes')[i % 2] / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for run in photos.plan(root / 'photos', root, folds=1):
        if run.variant in (photos.DENSE, NEURONS):
            folder = run_folder(root, *run.key)
            run.write(folder / 'config.py', CONFIGS, str)
            cfg = Config.fromfile(folder / 'config.py')
            model = build_model(cfg)
            model.init_weights()
            for hook in cfg.get('custom_hooks', []):
                options = {key: value for key, value in hook.items() if key != 'type'}
                DynamicSparsity(model, 100, **dict(options, init='erk')).initialize()
            torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
            (folder / 'last_checkpoint').write_text(str(folder / 'weights.pth'))
            (folder / 'test').mkdir()
    return root


@pytest.mark.slow
def test_dead_neurons_are_gone_and_the_output_is_the_same(work_dir):
    folder = run_folder(work_dir, photos.STUDY, NEURONS, 0)
    model = build_model(Config.fromfile(folder / 'config.py'))
    model.load_state_dict(torch.load(folder / 'weights.pth', weights_only=True)['state_dict'])
    small, images = speed.deployed(work_dir, NEURONS, 0), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(small(images), model.eval()(images), atol=1e-5)
    found = speed.measure_speeds(work_dir, size=64, batch=1, repeats=3)
    assert list(found) == [photos.DENSE, NEURONS] and found[photos.DENSE]['speedup'] == 1
    assert found[NEURONS]['parameters'] < .8 * found[photos.DENSE]['parameters']
    assert found[NEURONS]['quarter'] <= found[NEURONS]['speedup'] <= found[NEURONS]['three_quarters']


def test_without_the_dense_one_there_is_nothing_to_compare_with(tmp_path):
    with pytest.raises(InputError, match='study.py run classification'):
        speed.measure_speeds(tmp_path)
