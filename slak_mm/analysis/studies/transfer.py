"""The classifiers of the photos as pre-training for UPerNet on CamVid and Faster R-CNN on BCCD."""
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .photos import CHANNELS, DENSE, REFERENCE
from .photos import STUDY as PRETRAINING
from .plan import Run, Trained

STUDY = 'transfer'
SCRATCH, SEEDS = 'from scratch', 3
KEPT = [dict(type='slak_mm.SparsityHook', init='checkpoint', grow=None)]
# what starts the backbone, and the hooks
ARMS: Dict[str, Any] = {
    SCRATCH: (None, []),
    'dense pre-training': (DENSE, []),
    'sparse pre-training, kept sparse': (REFERENCE, KEPT),
    'sparse pre-training, fine-tuned dense': (REFERENCE, []),
}


class Task(NamedTuple):
    """What a classifier is the backbone of: a config, its metric, and the changes for what takes the maps of these channels."""
    config: str
    metric: str
    reader: Callable[[List[int]], Dict[str, Any]]


TASKS = {
    'CamVid, UPerNet': Task('study/upernet_slak_micro_camvid.py', 'mIoU', lambda channels: dict(
        decode_head=dict(in_channels=channels), auxiliary_head=dict(in_channels=channels[2]))),
    'BCCD, Faster R-CNN': Task('study/faster_rcnn_slak_micro_bccd.py', 'pascal_voc/mAP', lambda channels: dict(
        neck=dict(in_channels=channels))),
}


def plan(camvid: Optional[Path], bccd: Optional[Path], seeds: int = SEEDS,
         channels: Sequence[int] = CHANNELS) -> List[Run]:
    """The runs, seed by seed; seed i starts from the classifiers of fold i.

    Args:
        camvid (Path, optional): Folder with img/ and ann/; None: without this task.
        bccd (Path, optional): Folder with JPEGImages/, Annotations/ and ImageSets/; None: without this task.
        seeds (int): Their number. Defaults to 3.
        channels (Sequence[int]): Of the classifiers. Defaults to (16, 32, 64, 128).
    """
    runs = []
    for seed in range(seeds):
        for (name, task), data in zip(TASKS.items(), (camvid, bccd)):
            for arm, (variant, hooks) in ARMS.items():
                if data is None:
                    continue
                loader = dict(dataset=dict(data_root=str(data.absolute())))
                backbone: Dict[str, Any] = dict(arch=dict(channels=tuple(channels)))
                if variant is not None:
                    backbone['init_cfg'] = dict(_delete_=True, type='Pretrained', checkpoint=Trained(PRETRAINING, variant, seed))
                runs.append(Run(STUDY, f'{name}: {arm}', seed, task.config, dict(
                    model=dict(task.reader(list(channels)), backbone=backbone), custom_hooks=hooks,
                    randomness=dict(seed=seed), train_dataloader=loader,
                    test_dataloader=loader), task.metric))
    return runs
