"""The first convolution of a file, for images with another number of channels."""
from torch import Tensor

STEMS = 'sum', 'repeat', 'first', 'random'


def check_stem(how: str) -> str:
    """Returns its argument.

    Raises:
        ValueError: It is none of :data:`STEMS`.
    """
    if how not in STEMS:
        raise ValueError(f'stem={how!r} is unknown; choose from {STEMS}.')
    return how


def adapt_stem(weight: Tensor, own: Tensor, how: str) -> Tensor:
    """The weights of the first convolution for as many channels as ``own`` has.

    Args:
        weight (Tensor): Of the file, (C, n, kH, kW).
        own (Tensor): Initial weights of the model, (C, m, kH, kW).
        how (str): ``'sum'``: every channel gets the sum over the file's channels, divided by m; for grey images. ``'repeat'``: channel
            i gets the file's channel i modulo n, times n / m, as timm does. ``'first'``: the first min(n, m) channels get the file's,
            the others keep their initial values; for RGB and more. ``'random'``: all keep their initial values.

    Returns:
        Tensor: Shape (C, m, kH, kW). With 'sum' and 'repeat' (m a multiple of n), an image of equal channels has the same output as in
        the file's model.
    """
    theirs, ours = weight.shape[1], own.shape[1]
    if how == 'sum':
        return (weight.sum(1, keepdim=True) / ours).expand(-1, ours, -1, -1).clone()
    if how == 'repeat':
        return weight[:, [i % theirs for i in range(ours)]] * (theirs / ours)
    adapted = own.detach().clone()
    if how == 'first':
        adapted[:, :theirs] = weight[:, :ours]
    return adapted
