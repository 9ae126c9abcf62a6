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
