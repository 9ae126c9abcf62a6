"""Maps to rows and back on NVIDIA GPUs, in Triton: LayerNorm of a map's pixels, its gradients, and the residual sum.

The large-kernel convolutions work in NCHW, matrix products on rows of channels. What lies between the two, a norm or a sum, reads one
layout and writes the other, so that no copy is made for the layout alone. Rows are padded with zeros to a width that tensor cores
take: with 124, 249, 499 or 998 channels, cuBLAS falls back to kernels that are two to three times slower.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor

from .triton_kernels import jit, tl, triton


@jit
def _load(ptr, n, p, c, P, C, stride_n, stride_p, stride_c):
    """Tile (pixels p, channels c) of image n, in float32; 0 outside."""
    offsets = p[:, None] * stride_p + c[None, :] * stride_c
    return tl.load(ptr + n.to(tl.int64) * stride_n + offsets, mask=(p < P)[:, None] & (c < C)[None, :], other=0.).to(tl.float32)


@jit
def _store(ptr, value, n, p, c, P, C, stride_n, stride_p, stride_c):
    offsets = p[:, None] * stride_p + c[None, :] * stride_c
    tl.store(ptr + n.to(tl.int64) * stride_n + offsets, value.to(ptr.dtype.element_ty), mask=(p < P)[:, None] & (c < C)[None, :])


@jit
def _rows_kernel(x_ptr, weight_ptr, bias_ptr, rows_ptr, mean_ptr, rstd_ptr, P, C, width, stride_n, stride_p, stride_c, eps,
                 NORM: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """BLOCK_P pixels of one image as rows of ``width``, normalized or (not NORM) as they are. Grid: (tiles, N)."""
    n = tl.program_id(1)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    x = _load(x_ptr, n, p, c, P, C, stride_n, stride_p, stride_c)
    if NORM:
        mean = tl.sum(x, 1) / C
        x = tl.where((c < C)[None, :], x - mean[:, None], 0.)
        rstd = 1 / tl.sqrt(tl.sum(x * x, 1) / C + eps)
        tl.store(mean_ptr + n * P + p, mean, mask=p < P)
        tl.store(rstd_ptr + n * P + p, rstd, mask=p < P)
        weight = tl.load(weight_ptr + c, mask=c < C, other=0.).to(tl.float32)
        bias = tl.load(bias_ptr + c, mask=c < C, other=0.).to(tl.float32)
        x = x * rstd[:, None] * weight[None, :] + bias[None, :]
    _store(rows_ptr, x, n, p, c, P, width, P * width, width, 1)


@jit
def _norm_backward_kernel(grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, grad_x_ptr, sums_ptr, P, C, width, stride_n, stride_p,
                          stride_c, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradient of a tile of the norm's input, and of its weight and bias by this tile: sums (tiles, 2, C). Grid: (tiles, N)."""
    n = tl.program_id(1)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = (p < P)[:, None] & (c < C)[None, :]
    mean = tl.load(mean_ptr + n * P + p, mask=p < P, other=0.)
    rstd = tl.load(rstd_ptr + n * P + p, mask=p < P, other=0.)
    x = _load(x_ptr, n, p, c, P, C, stride_n, stride_p, stride_c)
    x = tl.where(inside, (x - mean[:, None]) * rstd[:, None], 0.)
    grad = _load(grad_ptr, n, p, c, P, C, P * width, width, 1)
    sums_ptr += (n * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * 2 * C
    tl.store(sums_ptr + c, tl.sum(grad * x, 0), mask=c < C)
    tl.store(sums_ptr + C + c, tl.sum(grad, 0), mask=c < C)
    grad = grad * tl.load(weight_ptr + c, mask=c < C, other=0.).to(tl.float32)[None, :]
    along, mean_grad = tl.sum(grad * x, 1) / C, tl.sum(grad, 1) / C
    grad = (grad - mean_grad[:, None] - x * along[:, None]) * rstd[:, None]
    _store(grad_x_ptr, grad, n, p, c, P, C, stride_n, stride_p, stride_c)


@jit
def _add_kernel(x_ptr, rows_ptr, out_ptr, P, C, width, stride_n, stride_p, stride_c, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """out = x + rows, out and x in one layout. Grid: (tiles of pixels, N, tiles of channels)."""
    n = tl.program_id(1)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = _load(x_ptr, n, p, c, P, C, stride_n, stride_p, stride_c) + _load(rows_ptr, n, p, c, P, C, P * width, width, 1)
    _store(out_ptr, total, n, p, c, P, C, stride_n, stride_p, stride_c)


def _tile(channels: int) -> dict:
    """All channels of as many pixels as fit into the registers of a program."""
    block_c = 1 << max(channels - 1, 15).bit_length()
    block_p = max(8192 // block_c, 16)
    return dict(BLOCK_P=block_p, BLOCK_C=block_c, num_warps=8 if block_p * block_c > 8192 else 4)


def _pixels(x: Tensor) -> Tensor:
    """(N, ..., C) as (N, pixels, C), dense: a view if x is a map in NCHW or NHWC."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    n, p, c = x.shape
    return x if x.is_contiguous() or x.stride() == (p * c, 1, p) else x.contiguous()


def to_rows(x: Tensor, width: int, dtype: torch.dtype, norm: Optional[Tuple[Tensor, Tensor, float]] = None
            ) -> Tuple[Tensor, Tensor, Tensor]:
    """Pixels of maps as rows, padded with zeros; each normalized, if ``norm`` is given.

    Args:
        x (Tensor): (N, ..., C).
        width (int): Of a row, from C to the next power of two.
        dtype (torch.dtype): Of the rows.
        norm (tuple, optional): Weight (C,), bias (C,) and eps of a layer norm. Defaults to None.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Rows (pixels, width); their mean and 1 / standard deviation, float32 (empty without norm).
    """
    x = _pixels(x)
    n, p, c = x.shape
    rows = x.new_empty((n * p, width), dtype=dtype)
    mean, rstd = (x.new_empty(0 if norm is None else n * p, dtype=torch.float32) for _ in range(2))
    weight, bias, eps = norm or (x, x, 0.)
    tile = _tile(width)
    with torch.cuda.device_of(x):
        _rows_kernel[(triton.cdiv(p, tile['BLOCK_P']), n)](x, weight, bias, rows, mean, rstd, p, c, width, *x.stride(), eps,
                                                          NORM=norm is not None, **tile)
    return rows, mean, rstd


def norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`to_rows` with a norm.

    Args:
        grad (Tensor): Of the rows, (pixels, width), contiguous.
        x (Tensor): The input of :func:`to_rows`, (N, ..., C).
        mean (Tensor): What :func:`to_rows` returned.
        rstd (Tensor): Likewise.
        weight (Tensor): The norm's, (C,).

    Returns:
        tuple[Tensor, Tensor, Tensor]: Gradients of x, in its type and layout, of weight and of bias, in float32.
    """
    shape, x = x.shape, _pixels(x)
    n, p, c = x.shape
    grad_x, tile = torch.empty_like(x), _tile(c)
    tiles = triton.cdiv(p, tile['BLOCK_P'])
    sums = x.new_empty((n * tiles, 2, c), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _norm_backward_kernel[(tiles, n)](grad, x, mean, rstd, weight, grad_x, sums, p, c, grad.shape[1], *x.stride(), **tile)
    return grad_x.view(shape), *sums.sum(0)


def add(x: Tensor, rows: Tensor) -> Tensor:
    """``x + rows`` for maps (N, ..., C), of which ``rows`` may have wider rows in memory; in the layout and type of x."""
    shape, x = x.shape, _pixels(x)
    n, p, c = x.shape
    rows = rows.reshape(n, p, c)
    if rows.stride(2) != 1 or rows.stride(0) != p * rows.stride(1):
        rows = rows.contiguous()
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _add_kernel[(triton.cdiv(p, 64), n, triton.cdiv(c, 64))](x, rows, out, p, c, rows.stride(1), *x.stride(), BLOCK_P=64,
                                                                  BLOCK_C=64, num_warps=4)
    return out.view(shape)
