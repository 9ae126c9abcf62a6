# Table 14 names no forms: its 7-7-7-7 has the accuracy of Table 1's "naive" (ConvNeXt-T), its 31-29-27-13 that of "RepLKNet".
_base_ = 'convnext_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(31, 7, 7, 7), large_kernel=('reparam', 'naive', 'naive', 'naive')))
