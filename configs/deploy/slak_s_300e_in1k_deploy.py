_base_ = '../slak_s_300e_in1k.py'

model = dict(backbone=dict(deploy=True))
custom_hooks = []  # of training
