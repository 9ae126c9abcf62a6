# rand-m9-mstd0.5-inc1, random erasing .25 of pixels; tests resize to 256 and crop 224. The authors' colour jitter of .4 is not
# forgotten: timm leaves it out where there is RandAugment.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128, drop_last=True)
