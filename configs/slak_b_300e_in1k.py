_base_ = 'slak_t_300e_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1331))
train_dataloader = dict(batch_size=32)
