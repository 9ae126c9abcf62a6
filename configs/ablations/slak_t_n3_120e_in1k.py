_base_ = '../slak_t_120e_in1k.py'

model = dict(backbone=dict(small_kernel_size=3))
