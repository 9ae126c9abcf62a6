"""Estimates the batch-norm statistics of a checkpoint's weights again, in one pass over the training data.

Averaged weights (EMA) need it: the average of the statistics is not that of the averaged weights (paper, section 5.1; Izmailov et
al., 2018). The data are augmented as in training, without mixup and CutMix.
"""
import argparse

import common
from mmengine.logging import MessageHub
from mmengine.runner import CheckpointLoader, Runner, save_checkpoint, set_random_seed

from slak_mm.checkpoints import check_fits, named, source
from slak_mm.checks import Split, check_split, enforce, refusing
from slak_mm.models.build import build_model
from slak_mm.registry import enter_scope
from slak_mm.training.loss import images_per_batch
from slak_mm.training.recalibrate import recalibrate


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or URL; of a checkpoint with EMA, the averaged weights are used')
    parser.add_argument('out', help='file to write: the weights with their new statistics, for tools/test.py and fine-tuning')
    parser.add_argument('--num-iters', type=int, help='batches to use; defaults to the whole epoch')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision: fp16 on a GPU, bf16 on a CPU')
    common.add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = common.load_config(args)
    enter_scope(cfg)
    set_random_seed(0)
    with refusing(args.config):
        model = build_model(cfg)
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    enforce(check_split(Split('train', loader, model)))
    checkpoint = CheckpointLoader.load_checkpoint(source(args.checkpoint), map_location='cpu')
    with named(args.checkpoint):
        check_fits(checkpoint['state_dict'], model)
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    # as a Runner does: some heads compute another loss in later epochs
    MessageHub.get_current_instance().update_info('epoch', checkpoint.get('meta', {}).get('epoch', 0))
    num_iters = recalibrate(model, loader, args.num_iters, args.amp)
    kept = {key: checkpoint[key] for key in ('meta', 'message_hub') if key in checkpoint}
    if 'message_hub' in kept:  # an inferencer that is given no config runs this one
        kept['message_hub']['runtime_info']['cfg'] = cfg.pretty_text
    save_checkpoint(dict(kept, state_dict=model.state_dict()), args.out)
    print(f'{args.out}: batch-norm statistics of {num_iters} batches of {images_per_batch(loader)} images.')


if __name__ == '__main__':
    common.run(main)
