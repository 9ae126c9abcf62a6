"""Images that data sets pass over in silence, for the end of their names."""
import pytest
from data_helpers import lines, make
from mmpretrain.datasets import CustomDataset
from PIL import Image

from slak_mm.checks import check_config
from slak_mm.checks.left_out import describe_left_out

pytestmark = pytest.mark.slow


def rename(folder, change, count=None):
    for path in sorted(folder.iterdir())[:count]:
        path.rename(change(path))


def test_other_suffixes_of_images_with_label_maps(tmp_path):
    cfg = make('seg', tmp_path)
    images = tmp_path / 'images/training'
    first = sorted(images.iterdir())[0]
    assert not [line for line in lines(cfg, 'warning') if 'left out' in line]
    rename(images, lambda path: path.with_suffix('.JPG'), 1)
    (images / 'notes.txt').write_text('no image')
    line, = [line for line in lines(cfg, 'warning') if 'left out' in line]
    assert line.startswith('train: ') and f'1 images in {images}' in line and first.stem + '.JPG' in line
    assert "takes .jpg alone, not .JPG. Set img_suffix='.JPG'" in line
    rename(images, lambda path: path.with_suffix('.png'))
    line, = [line for line in lines(cfg) if line.startswith('train')]
    assert 'no images are found' in line and "not .png. Set img_suffix='.png'" in line


def test_label_maps_beside_the_images_are_none(tmp_path):
    cfg = make('seg', tmp_path)
    for split in ('training', 'validation'):
        for path in (tmp_path / f'annotations/{split}').iterdir():
            path.rename(tmp_path / f'images/{split}/{path.name}')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_prefix.seg_map_path = dataset.data_prefix.img_path
    assert not [finding for finding in check_config(cfg) if 'left out' in finding.text and finding.level != 'fine']
    assert not lines(cfg)


def test_other_suffixes_in_folders_of_classes(tmp_path):
    for name in ('cat/0.jpg', 'cat/1.webp', 'dog/0.PNG', 'dog/.thumb.webp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 4)).save(tmp_path / name)
    dataset = CustomDataset(data_prefix=str(tmp_path))
    text = describe_left_out(dataset)
    assert len(dataset) == 2 and text.startswith(f'1 images in {tmp_path} are left out, the first is cat/1.webp: CustomDataset takes')
    assert "Set extensions=('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.webp'); or" in text
    taught = CustomDataset(data_prefix=str(tmp_path), extensions=('.bmp', '.jpg', '.png', '.webp'))
    assert len(taught) == 3 and describe_left_out(taught) == ''
    (tmp_path / 'list.txt').write_text('cat/0.jpg 0\n')
    assert describe_left_out(CustomDataset(data_prefix=str(tmp_path), ann_file=str(tmp_path / 'list.txt'))) == ''


def test_folders_that_are_no_classes(tmp_path):
    cfg = make('cls', tmp_path)
    (tmp_path / '.ipynb_checkpoints').mkdir()
    root = tmp_path / 'photos'
    for name in ('.ipynb_checkpoints/0.png', 'cat/0.png', 'dog/0.png'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 40)).save(root / name)
    pipeline = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset = dict(type='CustomDataset', data_prefix=str(root), pipeline=pipeline)
    assert [line for line in lines(cfg, 'warning') if "'.ipynb_checkpoints' counts as a class" in line]
