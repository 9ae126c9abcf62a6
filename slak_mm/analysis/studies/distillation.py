"""A ConvNeXt with 7x7 kernels on the photos, alone and taught by the SLaK of :mod:`.photos`."""
from pathlib import Path
from typing import Any, Dict, List, Sequence

from .photos import CHANNELS, CONFIG, DENSE, FOLDS, METRIC, folds_of
from .photos import STUDY as PRETRAINING
from .plan import DEPTHS, Run, Trained

STUDY = 'distillation'
ALONE = 'ConvNeXt alone'
# losses, and the weight of the cross-entropy beside them, as SLaK's authors have them
LOSSES: Dict[str, Any] = {
    ALONE: ([], 1.),
    'NKD': ([dict(type='slak_mm.NKDLoss')], 0.),
    'KD': ([dict(type='slak_mm.KDLoss', temperature=3., weight=.1)], .9),
    'FD': ([dict(type='slak_mm.FDLoss', student='backbone.stages.3')], 1.),
}


def _classifier(backbone: Dict[str, Any], classes: int, channels: Sequence[int]) -> Dict[str, Any]:
    head = dict(type='LinearClsHead', num_classes=classes, in_channels=channels[-1], topk=(1, ),
                loss=dict(type='LabelSmoothLoss', label_smooth_val=.1, mode='original'))
    return dict(type='ImageClassifier', backbone=backbone, head=head)


def plan(data: Path, work_dir: Path, folds: int = FOLDS, channels: Sequence[int] = CHANNELS) -> List[Run]:
    """The runs, fold by fold; the teacher of a fold is the dense SLaK of that fold.

    Args:
        data (Path): Folder of the photos.
        work_dir (Path): Of the study.
        folds (int): How many of the five folds to run. Defaults to 5.
        channels (Sequence[int]): Of teacher and student. Defaults to (16, 32, 64, 128).
    """
    classes, changes = folds_of(data, work_dir)
    arch = dict(depths=DEPTHS, channels=tuple(channels))
    start = dict(type='Xavier', layer=['Conv2d', 'Linear'], distribution='uniform')
    student = _classifier(dict(type='ConvNeXt', arch=arch, layer_scale_init_value=1., init_cfg=start), len(classes), channels)
    runs = []
    for fold in range(folds):
        for name, (losses, task_weight) in LOSSES.items():
            teacher = dict(_classifier(dict(type='slak_mm.SLaK', arch=arch, width_factor=1., layer_scale_init_value=1.), len(classes),
                                       channels),
                           init_cfg=dict(type='Pretrained', checkpoint=Trained(PRETRAINING, DENSE, fold)))
            model = dict(type='slak_mm.DistilledClassifier', student=student, teacher=teacher, losses=losses, task_weight=task_weight)
            runs.append(Run(STUDY, name, fold, CONFIG, dict(model=dict(model if losses else student, _delete_=True), **changes(fold)),
                            METRIC, classifies=True))
    return runs
