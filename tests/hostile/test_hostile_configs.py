"""Configs and options that cannot be meant: wrong names, wrong types, kernels that cannot be, sparsity that contradicts itself."""
import pytest
from mmengine import Config

# name: (options, words of the line)
OPTIONS = {
    'no value': (['model.backbone.arch'], 'is not KEY=VALUE'),
    'a bracket open': (['model.backbone.kernel_sizes=(51,49'], 'is not KEY=VALUE'),
    'a typo in a first name': (['test_dataloder.batch_size=2'], "nothing reads 'test_dataloder'. Write 'test_dataloader'"),
    'a name of nothing': (['zzz=1'], "nothing reads 'zzz'"),
    'a typo in an argument': (['model.backbone.kernel_size=7'], "unexpected keyword argument 'kernel_size'"),
    'a typo in a type': (['model.backbone.type=slak_mm.SLack'], 'slak_mm.SLack is not in the'),
    'a type of no library': (['model.decode_head.type=nowhere.UPerHead'], 'nowhere.UPerHead is not in the'),
    'a typo in the data set': (['test_dataloader.dataset.data_rot=x'], "unexpected keyword argument 'data_rot'"),
    'a typo in a transform': (['test_dataloader.dataset.pipeline.0.type=LoadImage'], 'LoadImage is not in the'),
    'a type where a dict must be': (['model.backbone=SLaK'], 'should be a dict'),
    'an index of nothing': (['test_dataloader.dataset.pipeline.9.type=x'], '9'),
    'an unknown arch': (['model.backbone.arch=huge'], "arch='huge' is unknown; choose from ('tiny'"),
    'three stages': (['model.backbone.arch.depths=(1,1,1)'], 'SLaK has 4 stages'),
    'a negative depth': (['model.backbone.arch.depths=(1,1,-2,1)'], 'depths in arch must be an integer from 1, got -2'),
    'half a block': (['model.backbone.arch.depths=(1,1,1.5,1)'], 'depths in arch must be an integer from 1, got 1.5'),
    'no channels': (['model.backbone.width_factor=0.01'], 'leaves stages without channels: (0, 0, 0, 0)'),
    'a width in words': (['model.backbone.width_factor=wide'], "width_factor must be positive, got 'wide'"),
    'an even kernel': (['model.backbone.kernel_sizes=(50,49,47,13)'], 'must be a positive odd integer, got 50'),
    'a negative kernel': (['model.backbone.kernel_sizes=(-51,49,47,13)'], 'must be a positive odd integer, got -51'),
    'a kernel in words': (['model.backbone.kernel_sizes=large'], "one odd size for each of the 4 stages, got 'large'"),
    'a kernel of half a pixel': (['model.backbone.kernel_sizes=(51.5,49,47,13)'], 'must be a positive odd integer, got 51.5'),
    'three kernels': (['model.backbone.kernel_sizes=(51,49,47)'], 'kernel_sizes must hold one odd size for each of the 4 stages'),
    'a small kernel that is larger': (['model.backbone.small_kernel_size=15'], 'choose an odd small_kernel_size <= 13'),
    'a small kernel in words': (['model.backbone.small_kernel_size=five'], "must be a positive odd integer, got 'five'"),
    'an unknown form': (['model.backbone.large_kernel=lora'], "large_kernel='lora' is unknown; choose from ('decomposed'"),
    'a number for a form': (['model.backbone.large_kernel=3'], 'large_kernel must be one of'),
    'drop path of all': (['model.backbone.drop_path_rate=1.0'], 'drop_path_rate must be a number from 0 to below 1, got 1.0'),
    'a negative drop path': (['model.backbone.drop_path_rate=-0.1'], 'drop_path_rate must be a number from 0 to below 1, got -0.1'),
    'a negative layer scale': (['model.backbone.layer_scale_init_value=-1'], 'layer_scale_init_value must be a number from 0, got -1'),
    'no stage 7': (['model.backbone.out_indices=(0,7)'], 'out_indices must be stages from -4 to 3'),
    'stages in words': (['model.backbone.out_indices=all'], "out_indices must be stages from -4 to 3, got 'all'"),
    'no fifth stage to freeze': (['model.backbone.frozen_stages=5'], 'frozen_stages must be an integer from 0 (none) to 4'),
    'images without channels': (['model.backbone.in_channels=0'], 'in_channels must be an integer from 1, got 0'),
    'a norm in words': (['model.backbone.norm_cfg=BN'], "norm_cfg must be a dict with a type, e.g. dict(type='SyncBN'), got 'BN'"),
    'a negative batch': (['test_dataloader.batch_size=-1'], 'batch_size'),
    'negative workers': (['test_dataloader.num_workers=-1'], 'num_workers'),
    'an unknown library': (['default_scope=mmnothing'], 'mmnothing'),
}
FILES = {
    'a syntax error': ('model = dict(', 'case.py: SyntaxError'),
    'a name that is not defined': ('model = backbone', "case.py: NameError: name 'backbone' is not defined"),
    'a base that is not there': ("_base_ = 'nowhere.py'", 'nowhere.py'),
    'an exception': ("raise ZeroDivisionError('by hand')", 'case.py: ZeroDivisionError: by hand'),
    'an import of nothing': ("custom_imports = dict(imports=['nowhere'])", 'nowhere'),
    'empty': ('', 'model'),
    'a typo in a setting': ('optim_wraper = dict()', "case.py: nothing reads 'optim_wraper'. Write 'optim_wrapper'"),
}
SPARSITY = {
    'all': (dict(sparsity=1.0), 'sparsity must be in [0, 1), got 1.0'),
    'less than nothing': (dict(sparsity=-.1), 'sparsity must be in [0, 1), got -0.1'),
    'in words': (dict(sparsity='high'), "sparsity must be in [0, 1), got 'high'"),
    'next to nothing': (dict(sparsity=.005), 'density 0.995 cannot be reached'),
    'an unknown init': (dict(init='random'), "init='random' is unknown"),
    'an unknown prune': (dict(prune='SET'), "prune='SET' is unknown"),
    'an unknown grow': (dict(grow='rigl'), "grow='rigl' is unknown"),
    'momentum without moments': (dict(grow='momentum', keep_moments=False), 'needs keep_moments=True'),
    'never': (dict(interval=0), 'interval must be an integer >= 1, got 0'),
    'every half step': (dict(interval=1.5), 'interval must be an integer >= 1, got 1.5'),
    'rates the wrong way round': (dict(prune_rate=.1, min_prune_rate=.2), 'min_prune_rate <= prune_rate'),
    'a rate in words': (dict(prune_rate='half'), "prune_rate must be in [0, 1], got 'half'"),
    'a stop beyond the end': (dict(stop_at=1.5), 'stop_at must be'),
    'a stop in words': (dict(stop_at='end'), "got 'end'"),
    'nothing to mask': (dict(only=['nothing']), "nothing matches ['nothing']"),
    'everything excluded': (dict(exclude=['weight']), 'no parameter to mask'),
}


@pytest.mark.parametrize('case', OPTIONS)
def test_options(refused, good, tmp_path, case):
    options, words = OPTIONS[case]
    refused('test', good.config, good.path, '--work-dir', tmp_path, '--cfg-options', *options, words=[words])


@pytest.mark.parametrize('case', FILES)
def test_files(refused, good, tmp_path, case):
    text, words = FILES[case]
    path = tmp_path / 'case.py'
    path.write_text(text)
    refused('test', path, good.path, '--work-dir', tmp_path, words=[words])


def test_no_file(refused, good, tmp_path):
    refused('test', tmp_path / 'absent.py', good.path, words=['absent.py'])
    refused('test', tmp_path, good.path, words=[str(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize('case', SPARSITY)
def test_sparsity(refused, good, tmp_path, case):
    options, words = SPARSITY[case]
    cfg = Config.fromfile(good.config)
    cfg.custom_hooks = [dict(type='slak_mm.SparsityHook', **{'init': 'uniform', **options})]
    cfg.dump(tmp_path / 'case.py')
    refused('train', tmp_path / 'case.py', '--work-dir', tmp_path, words=[words, 'case.py'])
    assert not list(tmp_path.rglob('*.pth'))


def test_a_traceback_is_there_for_who_wants_it(tool, good, monkeypatch):
    monkeypatch.setenv('SLAK_MM_TRACEBACK', '1')
    with pytest.raises(ValueError) as error:
        tool('test', good.config, good.path, '--cfg-options', 'model.backbone.arch=huge')
    assert 'choose from' in str(error.value.__cause__)
