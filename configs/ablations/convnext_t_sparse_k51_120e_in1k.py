# "Sparse groups" of Table 2: decomposed and 40% sparse, but not widened.
_base_ = '../slak_t_120e_in1k.py'

model = dict(backbone=dict(width_factor=1.0), head=dict(in_channels=768))
