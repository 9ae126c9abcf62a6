# SLaK-T where a head or neck wants maps: for configs that put it under a model of their libraries.
slak = dict(
    _delete_=True,
    type='slak_mm.SLaK',
    arch='tiny',
    drop_path_rate=0.3,
    layer_scale_init_value=1.0,
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False)
widths = [124, 249, 499, 998]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'
