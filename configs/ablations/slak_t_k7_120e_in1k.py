_base_ = '../slak_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(7, 7, 7, 7)))
