_base_ = 'convnext_t_decomposed_k51_120e_in1k.py'

model = dict(backbone=dict(large_kernel='sequential'))
