"""model-index.yml and configs/metafile.yml against the configs, both ways."""
import re
from pathlib import Path

import pytest
from mmengine import Config
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.fileio import load

import slak_mm

ROOT = Path(__file__).parents[2]
FILES = [load(ROOT / file) for file in load(ROOT / 'model-index.yml')['Import']]
MODELS = {model['Name']: model for file in FILES for model in file['Models']}


def test_each_config_is_listed_and_each_listed_one_exists():
    configs = {path.stem: f'{path.relative_to(ROOT)}' for folder in ('configs', 'configs/ablations')
               for path in (ROOT / folder).glob('*.py') if '_toy_' not in path.stem}
    assert {name: model['Config'] for name, model in MODELS.items()} == configs
    assert sum(len(file['Models']) for file in FILES) == len(MODELS)


def test_the_model_zoo_names_the_toy_configs():
    page = (ROOT / 'docs/model_zoo.md').read_text()
    assert not [path.stem for path in (ROOT / 'configs').glob('*_toy_*.py') if f'`{path.stem}`' not in page]


def test_each_merged_config_belongs_to_a_listed_one():
    merged = sorted(path.stem for path in (ROOT / 'configs/deploy').glob('*.py'))
    assert merged and all(name.endswith('_deploy') and name[:-7] in MODELS for name in merged)


@pytest.mark.parametrize('name', MODELS)
def test_the_model_zoo_says_the_same(name):
    page = (ROOT / 'docs/model_zoo.md').read_text()
    row, = re.findall(rf'^\| (?:\[{name}\]\(../configs/{name}\.py\)|`{name}`) \|(.*)', page, re.MULTILINE)
    metrics = [value for result in MODELS[name]['Results'] for value in result.get('Metrics', {}).values()]
    numbers = [float(number) for number in re.findall(r'(?<![\w.])\d+\.\d+(?![\w.])', row)]
    assert [number for number in numbers if number in metrics] == metrics
    metadata = MODELS[name]['Metadata']
    assert ('none' if not metrics else metadata['Results From'].partition(', ')[2]) in row
    size = metadata.get('Parameters')
    assert not size or f'{size // 10**6}M, {metadata["FLOPs"] / 1e9:.{0 if metadata["FLOPs"] > 1e11 else 1}f}G' in row


def test_numbers_are_marked_as_the_papers():
    assert "are the paper's" in (ROOT / 'configs/metafile.yml').read_text().splitlines()[0]
    for model in MODELS.values():
        reported = any('Metrics' in result for result in model['Results'])
        assert model['Metadata']['Results From'].startswith('paper, Table' if reported else 'none'), model['Name']


def test_the_fields_that_mim_reads():
    collections = {collection['Name'] for file in FILES for collection in file['Collections']}
    for model in MODELS.values():
        assert model['In Collection'] in collections
        assert model['Metadata']['Training Data'] and all(result['Task'] and result['Dataset'] for result in model['Results'])
    assert all((ROOT / collection['README']).exists() for file in FILES for collection in file['Collections'])


@pytest.mark.parametrize('name', ['upernet_slak_t_80k_ade20k', 'faster_rcnn_slak_t_36e_voc07', 'slak_b_384_in1k'])
def test_mmengine_finds_it_and_the_length_is_right(name):
    metadata = _get_cfg_metainfo(str(Path(slak_mm.__file__).parent), f'{name}.py')['Metadata']
    train_cfg = Config.fromfile(ROOT / MODELS[name]['Config']).train_cfg
    assert metadata.get('Epochs', metadata.get('Iterations')) == train_cfg.get('max_epochs', train_cfg.get('max_iters'))
