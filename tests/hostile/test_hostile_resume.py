"""Checkpoints of mmengine's own kind, changed by hand, that a training is to resume from."""
import pytest
import torch
from mmengine import Config

LAYER = 'backbone.stages.0.0.pwconv1.weight'
pytestmark = pytest.mark.slow  # together


def swap(*path, value=None):
    """Replaces an entry; by a function of it, or a value."""

    def change(checkpoint):
        *parents, last = path
        for key in parents:
            checkpoint = checkpoint[key]
        checkpoint[last] = value(checkpoint[last]) if callable(value) else value

    return change


def remove(*path):

    def change(checkpoint):
        *parents, last = path
        for key in parents:
            checkpoint = checkpoint[key]
        del checkpoint[last]

    return change


MASK = 'sparsity', 'masks', LAYER
MOMENT = 'optimizer', 'state', 3, 'exp_avg'
NOT_ITS_WEIGHTS = 'The masks in the file are not those of its weights'
# name: (change, words of the line)
CASES = {
    'weights where masks are zero': (swap('state_dict', LAYER, value=torch.ones_like), f'{NOT_ITS_WEIGHTS}: {LAYER} is not zero'),
    'bits too few': (swap(*MASK, 'bits', value=lambda bits: bits[:, :-1]), NOT_ITS_WEIGHTS),
    'bits too many': (swap(*MASK, 'bits', value=lambda bits: bits.repeat(1, 2)), NOT_ITS_WEIGHTS),
    'bits of another type': (swap(*MASK, 'bits', value=lambda bits: bits.float()), 'bits of these masks are missing or of another'),
    'bits in words': (swap(*MASK, 'bits', value='1010'), 'the bits of these masks are missing or of another size'),
    'active but never was': (swap(*MASK, 'bits', value=lambda bits: torch.stack([bits[0], bits[1] * 0])), 'never were active'),
    'another shape': (swap(*MASK, 'shape', value=[1, 2]), f'{LAYER} is [1, 2] instead of'),
    'a mask of no layer': (lambda checkpoint: checkpoint['sparsity']['masks'].update(x=dict(shape=[1], bits=None)), NOT_ITS_WEIGHTS),
    'a mask in words': (swap(*MASK, value='dense'), 'these are not masks'),
    'no mask of a layer': (remove(*MASK), f'{LAYER} is missing'),
    'no masks': (remove('sparsity'), 'The checkpoint to resume holds no masks'),
    'masks in words': (swap('sparsity', value='sparse'), NOT_ITS_WEIGHTS),
    'no steps': (remove('sparsity', 'steps'), "['steps'] missing"),
    'steps in words': (swap('sparsity', 'steps', value='many'), "steps='many'"),
    'negative steps': (swap('sparsity', 'steps', value=-1), 'steps=-1'),
    'another sparsity': (swap('sparsity', 'config', 'sparsity', value=.5), 'sparsity=0.5, not 0.4'),
    'no epoch': (remove('meta', 'epoch'), 'not where a training stopped'),
    'iterations in words': (swap('meta', 'iter', value='many'), 'not where a training stopped'),
    'a negative iteration': (swap('meta', 'iter', value=-3), 'not where a training stopped'),
    'meta in words': (swap('meta', value='meta'), 'This is not a checkpoint as mmengine saves it'),
    'no log': (swap('message_hub', value=dict()), 'must contain key: `log_scalars`'),
    'a log in words': (swap('message_hub', value='log'), 'This is not a checkpoint as mmengine saves it'),
    'a seed in words': (swap('meta', 'seed', value='seed'), 'case.pth, with '),
    'an optimizer of another model': (swap('optimizer', 'param_groups', value=lambda groups: groups[:0]), 'parameter groups'),
    'an optimizer in words': (swap('optimizer', value='adam'), 'case.pth, with '),
    'a moment of another shape': (swap(*MOMENT, value=lambda moment: moment[:-1]), 'does not fit the model: exp_avg of backbone.'),
    'a moment that is not finite': (swap(*MOMENT, value=lambda moment: moment / 0), 'NaN or infinite'),
    'a moment in words': (swap(*MOMENT, value='small'), 'is not a tensor'),
    'no moment': (remove(*MOMENT), 'is missing'),
    'schedulers in words': (swap('param_schedulers', value='cosine'), 'case.pth, with '),
    'diverged': (swap('state_dict', LAYER, value=lambda weight: weight / 0), f"'{LAYER}' has values that are NaN"),
}


@pytest.fixture
def checkpoint(good):
    return torch.load(good.path, weights_only=True)


@pytest.mark.parametrize('case', CASES)
def test_resuming_is_refused(refused, good, checkpoint, tmp_path, case):
    change, words = CASES[case]
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'case.pth')
    refused('train', good.config, '--work-dir', tmp_path / 'work', '--resume', tmp_path / 'case.pth', words=[words])
    assert not list((tmp_path / 'work').rglob('*.pth'))


@pytest.mark.parametrize('case', ['weights where masks are zero', 'diverged', 'meta in words'])
def test_testing_is_refused_too(refused, good, checkpoint, tmp_path, case):
    change, words = CASES[case]
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'case.pth')
    refused('test', good.config, tmp_path / 'case.pth', '--work-dir', tmp_path, words=[words, 'case.pth'])


def test_a_head_of_other_classes_is_not_tested(refused, good, checkpoint, tmp_path):
    swap('state_dict', 'decode_head.conv_seg.weight', value=lambda weight: weight[:3])(checkpoint)
    remove('sparsity')(checkpoint)
    torch.save(checkpoint, tmp_path / 'case.pth')
    refused('test', good.config, tmp_path / 'case.pth', '--work-dir', tmp_path, words=['conv_seg.weight is (3, ', 'case.pth'])


def test_weights_alone_are_not_resumed(refused, good, official, tmp_path):
    cfg = Config.fromfile(good.config)
    cfg.custom_hooks = []
    cfg.dump(tmp_path / 'case.py')
    refused('train', tmp_path / 'case.py', '--work-dir', tmp_path / 'work', '--resume', official,
            words=['slak_micro.pth holds weights, but not where a training stopped', '--pretrained'])


def test_the_text_of_a_config_in_a_checkpoint_does_not_run(tool, good, checkpoint, tmp_path):
    """mmengine runs ``meta.config`` on resuming, and an inferencer that is given no config runs the message hub's."""
    ran = tmp_path / 'ran'
    text = f'open({str(ran)!r}, "w").close()'
    Config.fromstring(text, file_format='.py')
    assert ran.exists()  # so would that of the checkpoint
    ran.unlink()
    checkpoint['meta']['config'] = text
    checkpoint['message_hub']['runtime_info']['cfg'] = text
    torch.save(checkpoint, tmp_path / 'case.pth')
    tool('train', good.config, '--work-dir', tmp_path / 'work', '--resume', tmp_path / 'case.pth')
    assert not ran.exists()
    saved = torch.load(tmp_path / 'work/iter_2.pth', weights_only=True)
    assert saved['meta']['iter'] == 2 and 'config' not in saved['meta']
    assert saved['message_hub']['runtime_info']['cfg'] not in ('', text)


def test_what_else_a_checkpoint_sets_is_data(tool, good, checkpoint, tmp_path):
    """mmengine sets attributes of schedulers, and entries of its log, as the file says: no name that it calls or imports."""
    ran = tmp_path / 'ran'
    hostile = f"__import__('os').system('touch {ran}')"
    checkpoint['message_hub']['runtime_info'].update({name: hostile for name in ('iter', 'max_iters', 'last_ckpt', 'loop_stage', 'x')})
    checkpoint['message_hub']['resumed_keys'].update(x=True)
    for scheduler in checkpoint['param_schedulers']:
        scheduler.update(_step_count=hostile, unknown=hostile)
    for group in checkpoint['optimizer']['param_groups']:
        group.update(unknown=hostile)
    torch.save(checkpoint, tmp_path / 'case.pth')
    try:
        tool('train', good.config, '--work-dir', tmp_path / 'work', '--resume', tmp_path / 'case.pth')
    except (SystemExit, TypeError):  # a count that is text cannot be counted on
        pass
    assert not ran.exists()
