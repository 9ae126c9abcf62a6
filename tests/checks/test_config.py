"""What a config says after it was read as the tools read it."""
from mmengine.runner import Runner

from slak_mm.checks import load_config


def test_without_workers_nothing_is_left_that_is_for_them(tmp_path):
    """As ``--cfg-options train_dataloader.num_workers=0`` of a config with persistent workers."""
    path = tmp_path / 'mine.py'
    path.write_text("""
default_scope = 'mmseg'
train_dataloader = dict(batch_size=2, num_workers=4, persistent_workers=True, prefetch_factor=2, dataset=[1, 2, 3],
                        sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
val_dataloader = train_dataloader
""")
    cfg = load_config(path, {'train_dataloader.num_workers': 0})
    cfg.train_dataloader.dataset = [1, 2, 3]
    assert [batch.tolist() for batch in Runner.build_dataloader(cfg.train_dataloader)] == [[1, 2], [3]]
    assert cfg.val_dataloader.persistent_workers and cfg.val_dataloader.prefetch_factor == 2
