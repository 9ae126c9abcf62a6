"""Pictures of predictions: over what the pipeline reads, and not larger than can be drawn."""
import numpy as np
import pytest
import torch
from data_helpers import make
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from slak_mm.checks import DataError
from slak_mm.deploy.predict import as_picture, find_images, image_loader, reduced


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
