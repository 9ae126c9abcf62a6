"""The loss outside of a training loop: as in training, without what drops at random."""
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModel
from torch import nn
from torchvision.ops import StochasticDepth

from slak_mm.training.loss import drops, training_mode
from slak_mm.training.recalibrate import recalibrate


class DropoutBlock(nn.Module):  # holds others: it may do anything

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.BatchNorm1d(4), nn.MultiheadAttention(4, 1, dropout=.5)


def test_what_drops():
    assert all(map(drops, (nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), DropPath(.1), StochasticDepth(.1, 'row'),
                           nn.MultiheadAttention(4, 1))))
    assert not any(map(drops, (DropoutBlock(), nn.BatchNorm1d(4), nn.Linear(1, 1), nn.Identity())))


def test_only_that_is_off_and_all_modes_come_back():
    model = nn.Sequential(nn.Dropout(.5), DropoutBlock(), nn.Sequential(DropPath(.9), nn.BatchNorm2d(3))).train()
    model[2].eval()
    before = [module.training for module in model.modules()]
    with training_mode(model):
        off = {name for name, module in model.named_modules() if not module.training}
        assert off == {'0', '1.attention', '2.0'}
        x = torch.randn(3, 1, 4)
        torch.testing.assert_close(model[1].attention(x, x, x)[0], model[1].attention(x, x, x)[0])
    assert [module.training for module in model.modules()] == before


def test_a_norm_that_the_model_keeps_in_evaluation_stays_so():
    class NormEval(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(NormEval(3), nn.ReLU())
    with training_mode(model):
        assert not model[0].training and model[1].training


class Counting(nn.Module):
    """A loss that counts, as some of mmdet's do."""

    def __init__(self):
        super().__init__()
        self.register_buffer('count', torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.count += 1
        return x


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(.9), Counting())

    def forward(self, inputs, mode):
        return dict(loss=self.layers(inputs).sum())


def test_recalibration_changes_nothing_but_statistics():
    model, data = Model(), [dict(inputs=torch.randn(8, 3) + 2) for _ in range(3)]
    recalibrate(model, data)
    torch.testing.assert_close(model.layers[0].running_mean.cpu(), torch.stack([batch['inputs'].mean(0) for batch in data]).mean(0))
    assert model.layers[2].count == 0
