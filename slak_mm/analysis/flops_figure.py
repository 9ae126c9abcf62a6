"""Figure 4, left: GFLOPs and parameters over the kernel size. Needs matplotlib."""
from pathlib import Path
from typing import Dict, List, Sequence

import matplotlib.pyplot as plt

from .flops import KERNEL_SIZES, Complexity


def draw_kernel_scaling(counted: Dict[str, List[Complexity]], path: Path, kernel_sizes: Sequence[int] = KERNEL_SIZES) -> None:
    """Draws what :func:`slak_mm.analysis.flops.kernel_scaling` counted.

    Args:
        counted (dict[str, list[Complexity]]): For each form, one for each kernel size.
        path (Path): Picture to write.
        kernel_sizes (Sequence[int]): Defaults to those of the paper.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    labels = dict(naive='full, MxM', decomposed='decomposed, Mx5 + 5xM + 5x5')
    for axis, title, value in ((axes[0], 'GFLOPs (multiply-adds)', lambda c: c.macs / 1e9),
                               (axes[1], 'parameters, millions', lambda c: c.parameters / 1e6)):
        for (form, of_form), color in zip(counted.items(), ('goldenrod', 'seagreen')):
            axis.plot(kernel_sizes, list(map(value, of_form)), 'o-', color=color, label=labels[form])
        axis.set(xlabel='kernel size M, in every stage', ylabel=title, xticks=kernel_sizes[::2], ylim=(0, None))
        axis.grid(alpha=.3)
        axis.legend()
    figure.suptitle('ConvNeXt-T at 224x224: what larger kernels cost')
    figure.savefig(path, dpi=110)
    plt.close(figure)
