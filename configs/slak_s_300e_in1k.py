_base_ = 'slak_t_300e_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
train_dataloader = dict(batch_size=64)
