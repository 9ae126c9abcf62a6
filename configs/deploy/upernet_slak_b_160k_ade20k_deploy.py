_base_ = '../upernet_slak_b_160k_ade20k.py'

model = dict(backbone=dict(deploy=True))
custom_hooks = []  # of training
