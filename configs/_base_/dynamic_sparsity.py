# The paper's dynamic sparsity, and an average of the weights that is as sparse as they are. Validation is of the average and, as
# "_origin", of the weights themselves.
custom_hooks = [
    dict(type='slak_mm.SparsityHook', sparsity=0.4, init='snip', prune='magnitude', grow='random', interval=100, prune_rate=0.3),
    dict(
        type='EMAHook',
        ema_type='slak_mm.SparseExponentialMovingAverage',
        momentum=1e-4,
        update_buffers=True,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL'),
]
