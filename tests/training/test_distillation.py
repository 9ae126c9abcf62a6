"""A student with a teacher: losses as published, and a training that is the student's own in all else."""
import copy

import numpy as np
import pytest
import torch
from micro_configs import ARCH
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from processes import spawn
from torch import nn

import slak_mm
from slak_mm.checks import settings
from slak_mm.errors import InputError
from slak_mm.models.backbones import backbone_cfg
from slak_mm.models.wrappers import unwrap
from slak_mm.toy import ToySpec, write_imagenet
from slak_mm.training import FDLoss, KDLoss, NKDLoss
from slak_mm.training.distributed import CPUDistributedDataParallel

CLASSES, SIDE = 1000, 64


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (5, 7)), rng.normal(0, 3, (5, 7)), np.array([0, 6, 3, 3, 1])


def value(loss, student, teacher, *labels):
    return loss.double()(*(torch.from_numpy(one) for one in (student, teacher, *labels))).item()


@pytest.fixture
def in_float64(monkeypatch):
    """The losses compute in fp32, whatever the model does; where it is used the formulas are checked, not the rounding."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


@pytest.mark.parametrize('temperature', [1., 3.])
def test_kd_is_the_published_formula(logits, temperature, in_float64):
    student, teacher, labels = logits
    t, s = softmax(teacher / temperature), softmax(student / temperature)
    expected = .1 * temperature**2 * (t * (np.log(t) - np.log(s))).sum() / len(labels)
    assert value(KDLoss(temperature, weight=.1), student, teacher, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('temperature, gamma', [(1., 1.), (2., 1.5)])
def test_nkd_is_the_published_formula(logits, temperature, gamma, in_float64):
    student, teacher, labels = logits
    expected = 0
    for s, t, label in zip(student, teacher, labels):
        expected -= softmax(t)[label] * np.log(softmax(s)[label])
        others = np.arange(len(s)) != label
        normalized = [softmax(one / temperature)[others] / (1 - softmax(one / temperature)[label]) for one in (s, t)]
        expected -= gamma * temperature**2 * (normalized[1] * np.log(normalized[0])).sum()
    assert value(NKDLoss(temperature, gamma), student, teacher, labels) == pytest.approx(expected / len(labels), rel=1e-9)


@pytest.mark.parametrize('beta', [2., .5])
def test_fd_is_the_published_formula(beta, in_float64):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 4, 4)), rng.normal(2, 3, size=(2, 5, 4, 4))
    loss = FDLoss('backbone', channels=(3, 5), beta=beta).double()
    weight, bias = (p.detach().numpy() for p in loss.project.parameters())
    projected = np.einsum('oi,nihw->nohw', weight[..., 0, 0], student) + bias[:, None, None]
    axes = 1, 2, 3
    whitened = (teacher - teacher.mean(axes, keepdims=True)) / np.sqrt(teacher.var(axes, keepdims=True) + 1e-5)
    d = abs(projected - whitened)
    expected = np.where(d < beta, .5 * d**2 / beta, d - .5 * beta).mean()
    assert value(loss, student, teacher) == pytest.approx(expected, rel=1e-9)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r'\(2, 3, 4, 4\).*\(2, 5, 4, 4\).*set channels=\(3, 5\)'):
        FDLoss('backbone')(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    assert FDLoss('backbone', whiten=False)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)) == 0


def classifier(channels, kernel):
    return dict(
        type='ImageClassifier', backbone=dict(type='slak_mm.SLaK', arch=dict(ARCH, channels=channels), kernel_sizes=(kernel, ) * 4,
                                              width_factor=1., layer_scale_init_value=1.),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=channels[-1],
                  loss=dict(type='LabelSmoothLoss', label_smooth_val=.1, mode='original')))


STUDENT, TEACHER = classifier((4, 4, 8, 8), 7), classifier((8, 8, 8, 12), 13)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """The config of a teacher with a file."""
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(TEACHER))
        model.init_weights()
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return dict(TEACHER, init_cfg=dict(type='Pretrained', checkpoint=str(path)))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('imagenet')
    write_imagenet(root, ToySpec(num_train=8, num_val=4, size=(64, 80)))
    return root


def distilled(teacher, /, **options):
    losses = [dict(type='slak_mm.NKDLoss'), dict(type='slak_mm.FDLoss', student='backbone.stages.3', channels=(8, 12), weight=.1)]
    return dict(dict(type='slak_mm.DistilledClassifier', student=STUDENT, teacher=teacher, losses=losses), **options)


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(copy.deepcopy(cfg))


def batch(model):
    from mmpretrain.structures import DataSample
    torch.manual_seed(0)
    samples = [DataSample().set_gt_label(label) for label in (3, 5)]
    return model.data_preprocessor(dict(inputs=torch.rand(2, 3, SIDE, SIDE) * 255, data_samples=samples), True)


def test_the_model_is_the_student(teacher):
    model, plain = build(distilled(teacher)), build(STUDENT)
    extra = {f'distillation.1.project.{name}' for name in ('weight', 'bias')}
    assert model.state_dict().keys() - extra == plain.state_dict().keys() and extra < model.state_dict().keys()
    assert isinstance(model, type(plain)) and isinstance(model, slak_mm.DistilledClassifier)
    model.init_weights()
    assert model.state_dict().keys() - extra == plain.state_dict().keys()  # the teacher is there now
    copied = copy.deepcopy(model)
    assert copied._teacher is model._teacher and copied.backbone is not model.backbone


def test_the_student_learns_and_the_teacher_does_not(teacher):
    model = build(distilled(teacher, task_weight=.5))
    model.init_weights()
    model.train()
    other = model._teacher.module
    before = copy.deepcopy(other.state_dict())
    inputs = batch(model)
    losses = model(**inputs, mode='loss')
    sum(losses.values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert not any(p.grad is not None or p.requires_grad for p in other.parameters()) and not other.training
    assert all(p.grad is not None for p in model.parameters())
    assert set(losses) == {'loss_task', 'loss_nkd', 'loss_fd'}
    total, logged = model.parse_losses(losses)
    assert logged['loss'] == total == sum(losses.values())
    # by hand
    with torch.no_grad():
        own = model.head.loss(model.extract_feat(inputs['inputs']), inputs['data_samples'])['loss']
        logits = [one(inputs['inputs'], mode='tensor') for one in (model, other)]
        assert losses['loss_task'] == .5 * own
        assert losses['loss_nkd'] == NKDLoss()(*logits, torch.tensor([3, 5]))


def test_labels_of_mixed_images_are_those_of_the_larger_share(teacher):
    model = build(distilled(teacher))
    data = batch(model)
    for sample, shares in zip(data['data_samples'], ([.7, .3], [.2, .8])):
        sample.set_gt_score(torch.tensor(shares))
    assert model._labels(data['data_samples']).tolist() == [0, 1]


@pytest.mark.parametrize('change, message', [
    (dict(teacher=TEACHER), 'The teacher has random weights: set teacher='),
    (dict(losses=[]), "needs losses, as losses="),
    (dict(type='slak_mm.Distilled'), 'NKDLoss compares the logits of classifiers'),
])
def test_what_does_not_fit_is_refused(teacher, change, message):
    with pytest.raises(InputError, match=message):
        build(distilled(teacher, **change))


@pytest.mark.parametrize('change, message', [
    (dict(student=dict(STUDENT, head=dict(STUDENT['head'], num_classes=10))),
     r'logits of the student are \(2, 10\), those of the teacher \(2, 1000\).* use slak_mm.FDLoss'),
    (dict(losses=[dict(type='slak_mm.FDLoss', student='backbone.stages.3', channels=(9, 12))]), r'set channels=\(8, 12\)'),
    (dict(losses=[dict(type='slak_mm.FDLoss', student='backbone.stages.3')]), r'set channels=\(8, 12\)'),
])
def test_outputs_that_do_not_fit_are_refused(teacher, change, message):
    model = build(distilled(teacher, **change))
    with pytest.raises(InputError, match=message):
        model(**batch(model), mode='loss')


def test_a_teacher_of_other_pixels_is_refused(teacher):
    def make(**numbers):
        return build(distilled(dict(teacher, data_preprocessor=dict(mean=[127.] * 3, std=[60.] * 3)), data_preprocessor=numbers))

    make(mean=[127.] * 3, std=[60.] * 3).init_weights()
    with pytest.raises(InputError, match=r"teacher's data_preprocessor has std=\[60.0, 60.0, 60.0\], the student's \[58.0,.* leave"):
        make(mean=[127.] * 3, std=[58.] * 3).init_weights()
    with pytest.raises(InputError, match=r"has mean=\[127.0, 127.0, 127.0\], the student's None"):
        make().init_weights()


def test_an_unknown_part_is_refused(teacher):
    model = build(distilled(teacher, losses=[dict(type='slak_mm.FDLoss', student='backbone.stages.4')]))
    with pytest.raises(InputError, match=r"The student has no part 'backbone.stages.4'. It has: .*backbone.stages.3"):
        model(**batch(model), mode='loss')


def runner_cfg(teacher, data, work_dir, **options):
    dataset = dict(type='ImageNet', data_root=str(data), split='train', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=SIDE), dict(type='PackInputs')])
    return Config(dict(dict(
        model=distilled(teacher), default_scope='mmpretrain', work_dir=str(work_dir), randomness=dict(seed=0),
        data_preprocessor=dict(num_classes=CLASSES, mean=[127.] * 3, std=[60.] * 3),
        train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset),
        train_cfg=dict(by_epoch=False, max_iters=4), log_level='ERROR',
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=2),
        default_hooks=dict(checkpoint=dict(type='slak_mm.CheckpointHook', interval=1, by_epoch=False)),
        custom_hooks=[dict(type='slak_mm.SparsityHook', interval=1), dict(type='slak_mm.ExactResumeHook'), dict(
            type='EMAHook', ema_type='slak_mm.SparseExponentialMovingAverage', momentum=.1, update_buffers=True)]), **options))


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'slak_mm.CPUAmpOptimWrapper'])
def test_a_resumed_run_is_the_unbroken_one(teacher, data, tmp_path, wrapper):
    def run(name, **options):
        cfg = runner_cfg(teacher, data, tmp_path / name, **options)
        cfg.optim_wrapper.type = wrapper
        Runner.from_cfg(cfg).train()
        return torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)

    unbroken = run('a')
    resumed = run('b', resume=True, load_from=str(tmp_path / 'a/iter_3.pth'))  # between two batches of one step
    assert unbroken['state_dict'].keys() == resumed['state_dict'].keys()
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(value, resumed[part][name]) for name, value in unbroken[part].items())
    # no teacher in it, and it is the plain student's
    student = build(STUDENT)
    missing, unexpected = student.load_state_dict(unbroken['state_dict'], strict=False)
    assert not missing and unexpected == ['distillation.1.project.weight', 'distillation.1.project.bias']
    assert not [name for name in unbroken['sparsity']['masks'] if 'teacher' in name]


def gradients(model, seed):
    """Of a model's parameters, by the loss of random images."""
    student = unwrap(model)
    data = dict(batch(student), inputs=torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 255)
    loss = student.parse_losses(model(**data, mode='loss'))[0]
    loss.backward()
    return {name: parameter.grad for name, parameter in student.named_parameters()}


def work(rank, folder, teacher):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = build(distilled(teacher))
    model.init_weights()
    wrapped = CPUDistributedDataParallel(model)
    torch.save(gradients(wrapped.train(), rank), f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_mean_of_their_gradients(teacher, tmp_path):
    """Of the losses of logits and of features; the teacher is no part of what DistributedDataParallel wraps."""
    spawn(work, (str(tmp_path), teacher), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2)]
    alone = []
    for seed in range(2):
        torch.manual_seed(0)
        model = build(distilled(teacher))
        model.init_weights()
        alone.append(gradients(model.train(), seed))
    assert alone[0].keys() == ranks[0].keys() and not [name for name in alone[0] if 'teacher' in name]
    for name, gradient in ranks[0].items():
        assert torch.equal(gradient, ranks[1][name]), name
        assert torch.allclose(gradient, (alone[0][name] + alone[1][name]) / 2, atol=1e-6), name
    assert not torch.allclose(alone[0]['distillation.1.project.weight'], alone[1]['distillation.1.project.weight'])


@pytest.mark.slow
def test_features_of_a_segmentor(tmp_path):
    def segmentor(channels):
        return dict(
            type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(SIDE, SIDE)),
            backbone=dict(type='slak_mm.SLaK', arch=dict(ARCH, channels=channels), kernel_sizes=(7, ) * 4, width_factor=1.,
                          out_indices=(0, 1, 2, 3), gap_before_final_norm=False),
            decode_head=dict(type='FCNHead', in_channels=channels[-1], channels=8, num_classes=3, num_convs=1, concat_input=False,
                             norm_cfg=dict(type='BN')), test_cfg=dict(mode='whole'))

    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(dict(state_dict=MODELS.build(segmentor((8, 8, 8, 12))).state_dict()), tmp_path / 't.pth')
        model = MODELS.build(dict(
            type='slak_mm.Distilled', student=segmentor((4, 4, 8, 8)),
            teacher=dict(segmentor((8, 8, 8, 12)), init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 't.pth'))),
            losses=[dict(type='slak_mm.FDLoss', student='backbone.stages.2'),
                    dict(type='slak_mm.FDLoss', student='backbone.stages.3', channels=(8, 12))]))
        model.init_weights()
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, SIDE, SIDE, dtype=torch.long)))
        data = dict(inputs=[torch.rand(3, SIDE, SIDE)] * 2, data_samples=[sample] * 2)
        losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    assert {'decode.loss_ce', 'loss_fd', 'loss_fd_1'} < set(losses)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert isinstance(model.distillation[0].project, nn.Identity) and model.distillation[1].project.weight.grad.any()


def test_tools_know_whose_backbone_is_trained(teacher):
    cfg = Config(dict(model=distilled(teacher), default_scope='mmpretrain'))
    assert backbone_cfg(cfg) == STUDENT['backbone'] != TEACHER['backbone']
    # options are arguments, so that one too many is refused
    assert settings._arguments(slak_mm.DistilledClassifier) is None
    with pytest.raises(TypeError, match='task_wait'):
        build(dict(cfg.model, task_wait=.5))
