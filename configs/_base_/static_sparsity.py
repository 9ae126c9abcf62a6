# Sparse fine-tuning: the zeros of the pre-trained weights stay zero.
custom_hooks = [dict(type='slak_mm.SparsityHook', init='checkpoint', grow=None)]
