_base_ = 'convnext_t_sparse_k51_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(7, 7, 7, 7)))
