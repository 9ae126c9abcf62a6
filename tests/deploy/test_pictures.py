"""Pictures of predictions: over what the pipeline reads, and not larger than can be drawn."""
import numpy as np
import pytest
import torch
from data_helpers import make
from hypothesis import given
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from slak_mm.checks import DataError
from slak_mm.deploy import predict
from slak_mm.deploy.predict import as_picture, build_inferencer, find_images, image_loader, picture_names, reduced
from slak_mm.models.build import build_model


def test_images_are_read_as_the_pipeline_does(tmp_path):
    cfg = make('seg', tmp_path / 'data')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (8, 4), (255, 0, 0)).save(tmp_path / 'a.jpg', exif=exif)
    path = str(tmp_path / 'a.jpg')
    assert image_loader(cfg)(path).shape == (8, 4, 3)
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    image = image_loader(cfg)(path)
    assert image.shape == (4, 8, 3) and as_picture(image)[0, 0].tolist() == [254, 0, 0]
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    assert as_picture(image_loader(cfg)(path)).shape == (8, 4, 3)
    (tmp_path / 'b.tif').write_bytes(b'no image')
    with pytest.raises(DataError, match='b.tif cannot be read as an image'):
        find_images(tmp_path, image_loader(cfg))


def test_formats_that_the_decoder_does_not_know(tmp_path, monkeypatch):
    load, folder = image_loader(make('seg', tmp_path / 'data')), tmp_path / 'images'
    folder.mkdir()
    Image.fromarray(np.random.rand(4, 8).astype(np.float32)).save(folder / 'a.tif')
    with pytest.raises(DataError, match="by cv2: it is a TIFF of mode F. .* imdecode_backend='tifffile'"):
        find_images(folder, load)
    (folder / 'a.tif').unlink()
    Image.new('P', (8, 4)).save(folder / 'a.gif')
    with pytest.raises(DataError, match='It has a.gif: save it as PNG'):
        find_images(folder, load)
    Image.new('RGB', (8, 4)).save(folder / 'b.png')
    said = []
    monkeypatch.setattr(predict, 'print_log', lambda message, *args: said.append(message))
    assert find_images(folder, load) == [str(folder / 'b.png')]
    assert len(said) == 1 and '1 images of other formats are left out, the first is a.gif' in said[0]


def test_an_image_that_the_model_cannot_take(tmp_path):
    cfg = make('seg', tmp_path / 'data')
    cfg.test_dataloader.dataset.pipeline = [step for step in cfg.test_dataloader.dataset.pipeline if step.type != 'Resize']
    load, model = image_loader(cfg), build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    image = str(tmp_path / 'long.png')
    Image.new('RGB', (80, 8)).save(image)
    inferencer = build_inferencer(cfg, str(tmp_path / 'weights.pth'), 'cpu')
    with pytest.raises(DataError, match='long.png cannot be predicted: The images are 8x80, .* at least 32'):
        predict.predict(inferencer, cfg, [image], str(tmp_path / 'out'), load)


def test_images_in_deeper_folders_are_named(tmp_path, monkeypatch):
    cfg = make('seg', tmp_path / 'data')
    for name in ('a/b/1.png', 'a/2.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 4)).save(tmp_path / name)
    said = []
    monkeypatch.setattr(predict, 'print_log', lambda message, *args: said.append(message))
    assert find_images(tmp_path / 'a', image_loader(cfg)) == [str(tmp_path / 'a/2.png')]
    assert len(said) == 1 and 'has folders with images inside (1)' in said[0] and 'left out' in said[0]
    (tmp_path / 'a/2.png').unlink()
    with pytest.raises(DataError, match=r'a has folders with images inside \(1\): give these folders one by one'):
        find_images(tmp_path / 'a', image_loader(cfg))


@given(st.lists(st.from_regex(r'[aAb]{1,2}(_jpg)?_{0,2}\.(jpg|png)', fullmatch=True), unique_by=str.lower))
def test_no_picture_takes_the_place_of_another(images):
    names = picture_names([f'folder/{image}' for image in images])
    assert len(names) == len(images) == len({name.lower() for name in names})
    assert all(name.startswith(image.rpartition('.')[0]) for name, image in zip(names, images))


def test_names_of_pictures():
    assert picture_names(['x/a.jpg', 'x/b.jpg', 'x/b.png']) == ['a', 'b_jpg', 'b_png']


@pytest.mark.parametrize('shape', [(4, 8), (4, 8, 1), (4, 8, 3), (4, 8, 5)])
def test_any_image_can_be_looked_at(shape):
    image = np.linspace(-3, 3, np.prod(shape), dtype=np.float32).reshape(shape)
    picture = as_picture(image)
    assert picture.shape == (4, 8, 3) and picture.dtype == np.uint8 and picture.min() == 0 and picture.max() > 240


@pytest.mark.parametrize('boxes', [torch.tensor, HorizontalBoxes])
def test_a_prediction_for_a_smaller_picture(boxes):
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[:, 30:, 40:] = True
    instances = InstanceData(bboxes=boxes([[40., 30., 80., 60.]]), scores=torch.ones(1), labels=torch.zeros(1), masks=masks)
    small = reduced(DetDataSample(pred_instances=instances), 2).pred_instances
    given, drawn = (getattr(part.bboxes, 'tensor', part.bboxes).tolist() for part in (instances, small))
    assert drawn == [[20, 15, 40, 30]] and small.masks.shape == (1, 30, 40) and small.masks[0, 15:, 20:].all()
    assert small.scores.tolist() == [1] and given == [[40, 30, 80, 60]]
    labels = SegDataSample(pred_sem_seg=PixelData(data=torch.arange(24).view(1, 4, 6)))
    assert reduced(labels, 2).pred_sem_seg.data.tolist() == [[[0, 2, 4], [12, 14, 16]]] and reduced(labels, 1) is labels
