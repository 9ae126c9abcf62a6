"""Draws docs/images/architecture.png: the rooms of slak_mm, and three ways through them."""
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

COLOURS = {
    'tools': '#e8e8e8', 'slak_mm': '#e8e8e8', 'zoo': '#e8e8e8', 'training': '#f6c6c6', 'reliability': '#f9dcb4', 'checks': '#f7efb0',
    'deploy': '#e3dcf3', 'analysis': '#d5e8f7', 'toy': '#eeeeee', 'models': '#c5e3c5', 'checkpoints': '#b9d9ef', 'sparsity': '#dcc7e8',
    'registry': '#eeeeee', 'compat': '#eeeeee', 'errors': '#eeeeee', 'OpenMMLab': '#ffffff'
}
LEVELS = [['tools'], ['slak_mm'], ['zoo'], ['training', 'reliability', 'checks', 'deploy', 'analysis', 'toy'], ['models'],
          ['checkpoints'], ['sparsity'], ['registry', 'compat'], ['errors']]
WAYS = {
    'an image': [
        ('checks', 'files, labels and classes, before the run starts'),
        ('reliability', 'random numbers by seed, epoch and sample'),
        ('OpenMMLab', 'pipeline, batch, data preprocessor'),
        ('models', 'SLaK: stem and four stages, channels_last'),
        ('OpenMMLab', 'neck, head: loss or prediction'),
        ('reliability', 'a loss that is not finite stops the run'),
    ],
    'a checkpoint': [
        ('checkpoints', 'file: checked, read without running code'),
        ('checkpoints', 'weights: the right entry; official names to ours'),
        ('checkpoints', 'fit: refused, or every tensor has its place'),
        ('models', 'SLaK takes the weights'),
        ('training', 'masks are added when it is saved'),
        ('reliability', 'position in the data is added; written whole'),
    ],
    'a mask': [
        ('sparsity', 'allocation: how many weights each layer keeps'),
        ('sparsity', 'masks: drawn from the seed, weights zeroed'),
        ('training', 'SparsityHook: after each optimizer step'),
        ('sparsity', 'every 100 steps: prune, and grow as many'),
        ('checkpoints', 'resumed: compared with the weights'),
        ('analysis', 'density, FLOPs, pictures'),
    ],
}


def box(axes, x, y, width, height, room, text=''):
    """A room, x and y at its lower left corner."""
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle='round,pad=0,rounding_size=0.08', facecolor=COLOURS[room],
                                  edgecolor='#555555', linestyle='--' if room == 'OpenMMLab' else '-', linewidth=.8))
    top = y + height - .2 if text else y + height / 2
    axes.text(x + width / 2, top, room, ha='center', va='center', fontsize=9, fontweight='bold')
    axes.text(x + width / 2, y + (height - .3) / 2, fill(text, 18), ha='center', va='center', fontsize=7.5)


def main():
    figure, axes = plt.subplots(figsize=(11, 9.2))
    axes.set(xlim=(0, 11), ylim=(0, 9.2))
    axes.axis('off')
    axes.text(.1, 9, 'Rooms: each imports only from the rows below it', fontsize=11, fontweight='bold', va='center')
    for row, rooms in enumerate(LEVELS):
        y, width = 8.35 - row * .46, 9.4 / len(rooms)
        for column, room in enumerate(rooms):
            box(axes, 1.5 + column * width, y, width - .1, .38, room)
    axes.annotate('', xy=(1.1, 4.67), xytext=(1.1, 8.72), arrowprops=dict(arrowstyle='-|>', color='#333333', linewidth=1.5))
    axes.text(.85, 6.7, 'imports', rotation=90, ha='center', va='center', fontsize=9)
    axes.text(.1, 4.25, 'The way of', fontsize=11, fontweight='bold', va='center')
    for row, (name, steps) in enumerate(WAYS.items()):
        y = 2.95 - row * 1.4
        axes.text(.1, y + .5, name.replace(' ', '\n', 1), fontsize=10, fontweight='bold', va='center')
        for column, (room, text) in enumerate(steps):
            x = 1.5 + column * 1.575
            box(axes, x, y, 1.4, 1.05, room, text)
            if column:
                axes.annotate('', xy=(x, y + .52), xytext=(x - .175, y + .52), arrowprops=dict(arrowstyle='-|>', color='#333333'))
    figure.savefig(Path(__file__).with_suffix('.png'), dpi=110, bbox_inches='tight', metadata=dict(Software=None))


if __name__ == '__main__':
    main()
