"""Where kernels have weights."""
import json

import pytest
import torch

from slak_mm.analysis.studies import photos, profiles, report
from slak_mm.analysis.studies.execute import run_folder
from slak_mm.errors import InputError


def end(work_dir, variant, fold, row):
    """A run that has ended, of kernels that have weights in one row of the tall one, and in the same column of the wide one."""
    weights = {}
    for layer in profiles.LAYERS:
        tall = torch.zeros(2, 1, 9, 3)
        tall[:, :, row] = 1
        tall[0, :, row + 1] = 1  # of one of two channels
        weights.update({f'{layer}.tall.conv.weight': tall, f'{layer}.wide.conv.weight': tall.transpose(2, 3)})
    folder = run_folder(work_dir, photos.STUDY, variant, fold)
    (folder / 'test').mkdir(parents=True)
    torch.save(dict(state_dict=weights), folder / 'last.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'last.pth'))


def test_the_mean_over_folds(tmp_path):
    for variant in profiles.COMPARED:
        with pytest.raises(InputError, match='is not trained'):
            profiles.measure_profiles(tmp_path)
        end(tmp_path, variant, 0, 3)
    end(tmp_path, photos.REFERENCE, 2, 4)
    found = profiles.measure_profiles(tmp_path)
    assert list(found) == [*profiles.COMPARED] and list(found[photos.REFERENCE]) == profiles.LAYERS
    for variant, shares in found.items():
        expected = [0, 0, 0, .5, .75, .25, 0, 0, 0] if variant == photos.REFERENCE else [0, 0, 0, 1, .5, 0, 0, 0, 0]
        assert all(own == expected for own in shares.values())
    path = tmp_path / 'classification.jsonl'
    erf = dict(trained={'20%': .1}, untrained={'20%': .05})
    result = dict(study=photos.STUDY, variant=photos.REFERENCE, seed=0, right='8/2', erf=erf, parameters=100, nonzero=60)
    path.write_text(json.dumps(dict(result, **{photos.METRIC: 50.})) + '\n')
    (tmp_path / report.PROFILES).write_text(json.dumps(found))
    _, files = report.write(path, tmp_path)
    assert [file.name for file in files] == ['classification.md', 'classification.png', 'masks.png']
    assert files[2].stat().st_size > 5000
