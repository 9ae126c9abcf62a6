"""Estimates the batch-norm statistics of a checkpoint's weights anew, in one pass over the training data.

Averaged weights (EMA) need it: the average of the statistics is not that of the averaged weights (paper, section 5.1; Izmailov et
al., 2018). The data are augmented as in training, without mixup and CutMix.
"""
import argparse
from itertools import islice

import common
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, save_checkpoint, set_random_seed
from rich.progress import track
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from slak_mm.checkpoints import check_fits, named
from slak_mm.training.sparsity_hook import preprocess


class OnlyNormsTrain(nn.Module):
    """An OpenMMLab model as torch's ``update_bn`` wants one: it takes a batch, and drop path and dropout stay off."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> 'OnlyNormsTrain':
        super().train(False)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, data) -> None:
        self.model._run_forward(preprocess(self.model, data), mode='loss')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or URL; of a checkpoint with EMA, the averaged weights are used')
    parser.add_argument('out', help='file to write: the weights with their new statistics, for tools/test.py and fine-tuning')
    parser.add_argument('--num-iters', type=int, help='batches to use; defaults to the whole epoch')
    common.add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = common.load_config(args)
    init_default_scope(cfg.default_scope)
    set_random_seed(0)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # as the Runner does
    with common.refusing(args.config):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    common.check_images(loader.dataset, common.num_classes(model))
    checkpoint = CheckpointLoader.load_checkpoint(common.source(args.checkpoint), map_location='cpu')
    with named(args.checkpoint):
        check_fits(checkpoint['state_dict'], model)
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    model.to(get_device())
    num_iters = min(args.num_iters or len(loader), len(loader))
    update_bn(track(islice(loader, num_iters), total=num_iters), OnlyNormsTrain(model))
    kept = {key: checkpoint[key] for key in ('meta', 'message_hub') if key in checkpoint}
    if 'message_hub' in kept:  # an inferencer that is given no config runs this one
        kept['message_hub']['runtime_info']['cfg'] = cfg.pretty_text
    save_checkpoint(dict(kept, state_dict=model.state_dict()), args.out)
    print(f'{args.out}: batch-norm statistics of {num_iters} batches of {loader.batch_size} images.')


if __name__ == '__main__':
    common.run(main)
