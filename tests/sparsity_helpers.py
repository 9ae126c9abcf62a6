"""A small net, and ways to train it sparse and to compare runs bit for bit."""
import io

import torch
from torch import nn

from slak_mm.compat import load_weights_only
from slak_mm.sparsity import DynamicSparsity

STEPS = 12


class Net(nn.Module):
    inputs, classes = (4, 2, 8, 8), 10

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.dw = nn.Conv2d(6, 6, (7, 5), padding=(3, 2), groups=6, bias=False)
        self.fc = nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(self.dw(self.norm(self.stem(x)).relu()).mean((2, 3)))


OPTIMIZERS = {
    # eps: the default 1e-8 is 0 in fp16
    'adamw': lambda params: torch.optim.AdamW(params, lr=.01, eps=1e-6, weight_decay=.05),
    'amsgrad': lambda params: torch.optim.AdamW(params, lr=.01, eps=1e-6, amsgrad=True),
    'sgd': lambda params: torch.optim.SGD(params, lr=.05, momentum=.9, weight_decay=1e-4),
}


def loss_of(model, step):
    rng = torch.Generator().manual_seed(step)
    x, y = torch.randn(model.inputs, generator=rng), torch.randint(model.classes, model.inputs[:1], generator=rng)
    return nn.functional.cross_entropy(model(x), y)


def build(model, optimizer='adamw', **kwargs):
    sparsity = DynamicSparsity(model, **{'total_steps': STEPS, 'interval': 2, 'init': 'uniform', **kwargs})
    return sparsity, OPTIMIZERS[optimizer](model.parameters())


def train(model, sparsity, optimizer, steps, pre_hook=True):
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if pre_hook:
            sparsity.before_step(optimizer)
        optimizer.step()
        sparsity.step(optimizer)


def moments(optimizer, param):
    return {k: v for k, v in optimizer.state.get(param, {}).items() if torch.is_tensor(v) and v.shape == param.shape}


def everything(model, sparsity, optimizer):
    """All bits of a run, by name."""
    held = dict(model.state_dict())
    for name, param in model.named_parameters():
        held.update({f'{key}/{name}': value for key, value in optimizer.state[param].items()})
    for key in ('active', 'ever_active'):
        held.update({f'{key}/{name}': mask for name, mask in getattr(sparsity.masks, key).items()})
    return {name: value.contiguous().flatten().view(torch.uint8) if value.ndim else value.reshape(1).view(torch.uint8)
            for name, value in held.items()}


def assert_same_bits(a, b):
    a, b = everything(*a), everything(*b)
    assert list(a) == list(b)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def unbroken_and_resumed(net, broken_at, pre_hook, optimizer, **options):
    """Two runs over all steps: one from end to end, and one that was saved at a step and goes on from the file in a fresh net."""
    whole = net()
    run = (whole, *build(whole, optimizer, **options))
    run[1].initialize()
    file = io.BytesIO()
    for step in range(STEPS + 1):
        if step == broken_at:
            torch.save([part.state_dict() for part in run], file)
        if step < STEPS:
            train(*run, [step], pre_hook)
    fresh = net(seed=1)
    resumed = (fresh, *build(fresh, optimizer, **options))
    file.seek(0)
    for part, state in zip(resumed, load_weights_only(file, 'cpu')):
        part.load_state_dict(state)
    assert resumed[1].steps == broken_at
    train(*resumed, range(broken_at, STEPS), pre_hook)
    return run, resumed
