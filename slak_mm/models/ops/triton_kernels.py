"""Depthwise convolutions with long kernels on NVIDIA tensor cores, in Triton.

One channel of a stripe convolution is a product with a banded Toeplitz matrix. Along its longer side q, a kernel of kr x kq taps
gives, for each of its kr rows d::

    Y[r, q] += sum over k of X[r + d - kr // 2, k] * T_d[k, q],    T_d[k, q] = w[d, k - q + kq // 2], 0 outside the kernel

A wide kernel has r = h, q = w; a tall one is the same thing on the transposed map, r = w, q = h. Rows of several images are stacked
along r, so that one Toeplitz tile, gathered from the taps, serves them all. k runs over the map within reach of the tile, so that
taps that only meet padding cost nothing. A NaN or inf in the input spreads along its whole tile: it is multiplied by the band's
zeros.

Kernels are compiled by Triton at first use; this module imports without Triton and without a GPU.
"""
import math
import os
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
    jit = triton.jit
except ImportError:
    from types import SimpleNamespace
    triton, tl = None, SimpleNamespace(constexpr=None)

    def jit(function):
        return function


MAX_BRANCHES = 3
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The interpreter multiplies bfloat16 tiles wrongly (NumPy has no such type), so it gets float32.
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'


@jit
def _add_stripe(acc, x_ptr, w_ptr, n0, c, r0, q0, N, C, R, Q, stride_r, stride_q, kr, kq, tap_r, tap_q, ROWS: tl.constexpr,
                BLOCK_R: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """acc (ROWS, BLOCK_Q) plus the convolution of channel c, rows from r0 of images from n0 on, with taps at w_ptr."""
    p = tl.arange(0, ROWS)  # 2-D tiles: Triton before 3.3 cannot load 3-D ones for tl.dot
    n = n0 + p // BLOCK_R
    r = r0 + p % BLOCK_R - kr // 2
    q = q0 + tl.arange(0, BLOCK_Q)
    x_ptr += (n.to(tl.int64) * C + c) * R * Q
    k_first = tl.maximum(q0 - kq // 2, 0) // 16 * 16
    k_blocks = (tl.minimum(q0 + BLOCK_Q + kq // 2, Q) - k_first + BLOCK_Q - 1) // BLOCK_Q
    d_first = tl.maximum(kr // 2 - (r0 + BLOCK_R - 1), 0)
    d_last = tl.minimum(kr // 2 + R - r0, kr)
    for i in range(d_first * k_blocks, d_last * k_blocks):  # one loop over (d, k): Triton pipelines innermost loops only
        d = i // k_blocks
        k = k_first + i % k_blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
        inside = (n < N) & (r + d >= 0) & (r + d < R)
        x = tl.load(x_ptr[:, None] + ((r + d)[:, None] * stride_r + k[None, :] * stride_q), mask=inside[:, None] & (k < Q)[None, :],
                    other=0.)
        tap = k[:, None] - q[None, :] + kq // 2
        t = tl.load(w_ptr + (d * tap_r + tap * tap_q), mask=(tap >= 0) & (tap < kq), other=0.)
        if UPCAST:
            x = x.to(tl.float32)
        acc = tl.dot(x, t.to(x.dtype), acc, input_precision=PRECISION)
    return acc


@jit
def _add_branch(acc, x_ptr, w_ptr, n0, c, h0, w0, N, C, H, W, kh, kw, TALL: tl.constexpr, BATCH: tl.constexpr,
                BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """acc (BATCH, BLOCK_H, BLOCK_W) plus the convolution of channel c of the images from n0 on with one branch's kernel."""
    w_ptr += c * kh * kw
    if TALL:
        acc = tl.reshape(tl.permute(acc, (0, 2, 1)), (BATCH * BLOCK_W, BLOCK_H))
        acc = _add_stripe(acc, x_ptr, w_ptr, n0, c, w0, h0, N, C, W, H, 1, W, kw, kh, 1, kw, BATCH * BLOCK_W, BLOCK_W, BLOCK_H,
                          PRECISION, UPCAST)
        return tl.permute(tl.reshape(acc, (BATCH, BLOCK_W, BLOCK_H)), (0, 2, 1))
    else:
        acc = tl.reshape(acc, (BATCH * BLOCK_H, BLOCK_W))
        acc = _add_stripe(acc, x_ptr, w_ptr, n0, c, h0, w0, N, C, H, W, W, 1, kh, kw, kw, 1, BATCH * BLOCK_H, BLOCK_H, BLOCK_W,
                          PRECISION, UPCAST)
        return tl.reshape(acc, (BATCH, BLOCK_H, BLOCK_W))


@jit
def _store(y_ptr, acc, n0, c, h0, w0, N, C, H, W, BATCH: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    n = n0 + tl.arange(0, BATCH)
    h = h0 + tl.arange(0, BLOCK_H)
    w = w0 + tl.arange(0, BLOCK_W)
    y_ptr += (n.to(tl.int64) * C + c)[:, None, None] * H * W + (h[:, None] * W + w[None, :])[None, :, :]
    inside = (n < N)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]
    tl.store(y_ptr, acc.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _conv_kernel(x0_ptr, x1_ptr, x2_ptr, w0_ptr, w1_ptr, w2_ptr, y0_ptr, y1_ptr, last_ptr, bias_ptr, N, C, H, width_in_vectors,
                 kh0, kw0, kh1, kw1, kh2, kw2, BRANCHES: tl.constexpr, SUM: tl.constexpr, BIAS: tl.constexpr, TALL0: tl.constexpr,
                 TALL1: tl.constexpr, TALL2: tl.constexpr, VECTOR: tl.constexpr, BATCH: tl.constexpr, BLOCK_H: tl.constexpr,
                 BLOCK_W: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """One tile of one channel of BATCH images: all branches, each to its own y, or (SUM) their sum to last.

    Grid: (tiles, C, N / BATCH).
    """
    W = width_in_vectors * VECTOR  # tells the compiler how rows are aligned
    tiles_w = (W + BLOCK_W - 1) // BLOCK_W
    h0 = tl.program_id(0) // tiles_w * BLOCK_H
    w0 = tl.program_id(0) % tiles_w * BLOCK_W
    c = tl.program_id(1)
    n0 = tl.program_id(2) * BATCH
    zeros = tl.full((BATCH, BLOCK_H, BLOCK_W), 0., tl.float32)
    acc = zeros
    if BIAS:
        acc += tl.load(bias_ptr + c).to(tl.float32)
    acc = _add_branch(acc, x0_ptr, w0_ptr, n0, c, h0, w0, N, C, H, W, kh0, kw0, TALL0, BATCH, BLOCK_H, BLOCK_W, PRECISION, UPCAST)
    if BRANCHES > 1:
        if not SUM:
            _store(y0_ptr, acc, n0, c, h0, w0, N, C, H, W, BATCH, BLOCK_H, BLOCK_W)
            acc = zeros
        acc = _add_branch(acc, x1_ptr, w1_ptr, n0, c, h0, w0, N, C, H, W, kh1, kw1, TALL1, BATCH, BLOCK_H, BLOCK_W, PRECISION, UPCAST)
    if BRANCHES > 2:
        if not SUM:
            _store(y1_ptr, acc, n0, c, h0, w0, N, C, H, W, BATCH, BLOCK_H, BLOCK_W)
            acc = zeros
        acc = _add_branch(acc, x2_ptr, w2_ptr, n0, c, h0, w0, N, C, H, W, kh2, kw2, TALL2, BATCH, BLOCK_H, BLOCK_W, PRECISION, UPCAST)
    _store(last_ptr, acc, n0, c, h0, w0, N, C, H, W, BATCH, BLOCK_H, BLOCK_W)


@jit
def _weight_kernel(x_ptr, g_ptr, sums_ptr, N, C, H, width_in_vectors, kh, kw, k_tiles, TALL: tl.constexpr, VECTOR: tl.constexpr,
                   BATCH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
                   UPCAST: tl.constexpr):
    """Gradient of row d of one channel's kernel, apart for each q: sums[c, d, q, t] = sum over n, r of g[r, q] * x[r + d', k].

    Here d' = d - kr // 2 and k = q + t - kq // 2. Grid: (kr, tiles along q times tiles along k, C). Entries that no k reaches are
    not written.
    """
    W = width_in_vectors * VECTOR
    if TALL:
        R, Q, stride_r, stride_q, kr, kq = W, H, 1, W, kw, kh
    else:
        R, Q, stride_r, stride_q, kr, kq = H, W, W, 1, kh, kw
    q0 = tl.program_id(1) // k_tiles * BLOCK_Q
    k0 = tl.maximum(q0 - kq // 2, 0) // 16 * 16 + tl.program_id(1) % k_tiles * BLOCK_Q
    if k0 < tl.minimum(q0 + BLOCK_Q + kq // 2, Q):
        d = tl.program_id(0)
        c = tl.program_id(2)
        p = tl.arange(0, BATCH * BLOCK_R)
        q = q0 + tl.arange(0, BLOCK_Q)
        k = k0 + tl.arange(0, BLOCK_Q)
        shift = d - kr // 2
        r_first = tl.maximum(-shift, 0)
        r_blocks = (tl.minimum(R - shift, R) - r_first + BLOCK_R - 1) // BLOCK_R
        acc = tl.full((BLOCK_Q, BLOCK_Q), 0., tl.float32)
        for i in range(0, (N + BATCH - 1) // BATCH * r_blocks):
            n = i // r_blocks * BATCH + p // BLOCK_R
            r = r_first + i % r_blocks * BLOCK_R + p % BLOCK_R
            planes = ((n.to(tl.int64) * C + c) * R * Q)[:, None]
            inside = ((n < N) & (r < R) & (r + shift < R))[:, None]
            g = tl.load(g_ptr + planes + (r[:, None] * stride_r + q[None, :] * stride_q), mask=inside & (q < Q)[None, :], other=0.)
            x = tl.load(x_ptr + planes + ((r + shift)[:, None] * stride_r + k[None, :] * stride_q), mask=inside & (k < Q)[None, :],
                        other=0.)
            if UPCAST:
                x = x.to(tl.float32)
            acc = tl.dot(tl.trans(g.to(x.dtype)), x, acc, input_precision=PRECISION)
        t = k[None, :] - q[:, None] + kq // 2
        sums_ptr += (c.to(tl.int64) * kr + d) * Q * kq
        tl.store(sums_ptr + (q[:, None] * kq + t), acc, mask=(q < Q)[:, None] & (k < Q)[None, :] & (t >= 0) & (t < kq))


def unavailable_reason(device: torch.device) -> Optional[str]:
    """Why the functions of this module cannot run on ``device``; None if they can."""
    if not hasattr(torch.library, 'custom_op'):
        return f'torch {torch.__version__} has no torch.library.custom_op: 2.4 is the first that has'
    if triton is None:
        return 'triton is not installed'
    if INTERPRETED:
        return None
    device = torch.device(device)
    if device.type != 'cuda':
        return f'the device is {device.type}, not cuda'
    if torch.version.hip is not None:
        return 'the kernels are for NVIDIA GPUs'
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f'the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0'
    return None


def _precision(x: Tensor) -> str:
    """Precision of a product of float32 tiles: 'tf32' where cuDNN's convolutions would use it, else 'ieee'."""
    conv = getattr(torch.backends.cudnn, 'conv', None)  # torch >= 2.9; there, allow_tf32 raises once fp32_precision was set
    tf32 = torch.backends.cudnn.allow_tf32 if conv is None else conv.fp32_precision == 'tf32'
    return 'tf32' if tf32 and x.dtype == torch.float32 else 'ieee'


def _tiles(x: Tensor, rows: int) -> Tuple[int, int, dict]:
    """Height and width of a tile for maps like x, and the launch options that do not depend on the kernel.

    Edges are powers of two, from 16, the least that tl.dot takes. Images are stacked until a tile has ``rows`` rows. At most 128
    registers let two programs of 8 warps share a multiprocessor, and two stages of float32 fit into 99 KB of shared memory.
    Products of float32 in full precision run outside the tensor cores, with the operands in registers: tiles are smaller.
    """
    single, precision = x.dtype == torch.float32, _precision(x)
    largest, rows = (32, rows // 2) if single and precision == 'ieee' else (64, rows)
    height, width = (min(max(16, 1 << (size - 1).bit_length()), largest) for size in x.shape[2:])
    batch = min(1 << (x.shape[0] - 1).bit_length(), rows // max(height, width))
    return height, width, dict(VECTOR=math.gcd(x.shape[3], 16 // x.element_size()), BATCH=batch, PRECISION=precision,
                               UPCAST=INTERPRETED, num_warps=8 if max(height, width) == largest else 4,
                               num_stages=2 if single else 3, maxnreg=128)


def _is_tall(weight: Tensor) -> bool:
    return weight.shape[2] > weight.shape[3]


def _launch_convolution(xs: List[Tensor], weights: List[Tensor], bias: Optional[Tensor], total: bool) -> List[Tensor]:
    """xs[b] (N, C, H, W) convolved with weights[b] (C, 1, kh, kw): one result per branch or, if ``total``, their sum alone."""
    xs, weights = [x.contiguous() for x in xs], [weight.contiguous() for weight in weights]
    n, c, h, w = xs[0].shape
    branches = len(weights)
    ys = [torch.empty_like(xs[0]) for _ in range(1 if total else branches)]
    xs, weights = ((tensors + tensors[:1] * MAX_BRANCHES)[:MAX_BRANCHES] for tensors in (xs, weights))
    tall0, tall1, tall2 = map(_is_tall, weights)
    block_h, block_w, options = _tiles(xs[0], rows=128)
    grid = (-(-h // block_h) * -(-w // block_w), c, -(-n // options['BATCH']))
    with torch.cuda.device_of(xs[0]):
        _conv_kernel[grid](*xs, *weights, ys[0], ys[len(ys) // 2], ys[-1], xs[0] if bias is None else bias, n, c, h,
                           w // options['VECTOR'], *(size for weight in weights for size in weight.shape[2:]), BRANCHES=branches,
                           SUM=total, BIAS=bias is not None, TALL0=tall0, TALL1=tall1, TALL2=tall2, BLOCK_H=block_h,
                           BLOCK_W=block_w, **options)
    return ys


def _launch_weight_gradient(x: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """Gradient (C, 1, kh, kw), float32, of the kernels that took x (N, C, H, W) to an output with gradient ``grad``."""
    n, c, h, w = x.shape
    tall = kh > kw
    block_h, block_w, options = _tiles(x, rows=64)
    (block_r, block_q), q, kr, kq = ((block_w, block_h), h, kw, kh) if tall else ((block_h, block_w), w, kh, kw)
    sums = x.new_zeros((c, kr, q, kq), dtype=torch.float32)
    q_tiles = -(-q // block_q)
    k_tiles = min(q_tiles, -(-(block_q + kq + 14) // block_q))  # within reach of a tile, from a multiple of 16
    with torch.cuda.device_of(x):
        _weight_kernel[(kr, q_tiles * k_tiles, c)](x, grad.contiguous(), sums, n, c, h, w // options['VECTOR'], kh, kw, k_tiles,
                                                   TALL=tall, BLOCK_R=block_r, BLOCK_Q=block_q, **options)
    gradient = sums.sum(2)
    return (gradient.transpose(1, 2) if tall else gradient).reshape(c, 1, kh, kw).contiguous()


if hasattr(torch.library, 'custom_op'):

    @torch.library.custom_op('slak_mm::depthwise_branches', mutates_args=())
    def _branches(x: Tensor, weights: List[Tensor]) -> List[Tensor]:
        return _launch_convolution([x], weights, None, total=False)

    @_branches.register_fake
    def _(x, weights):
        return [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in weights]

    @torch.library.custom_op('slak_mm::depthwise_sum', mutates_args=())
    def _sum(xs: List[Tensor], weights: List[Tensor], bias: Optional[Tensor]) -> Tensor:
        return _launch_convolution(xs, weights, bias, total=True)[0]

    @_sum.register_fake
    def _(xs, weights, bias):
        return torch.empty_like(xs[0], memory_format=torch.contiguous_format)

    @torch.library.custom_op('slak_mm::depthwise_weight_gradients', mutates_args=())
    def _weight_gradients(x: Tensor, grads: List[Tensor], heights: List[int], widths: List[int]) -> List[Tensor]:
        x = x.contiguous()
        return [_launch_weight_gradient(x, grad, kh, kw) for grad, kh, kw in zip(grads, heights, widths)]

    @_weight_gradients.register_fake
    def _(x, grads, heights, widths):
        return [x.new_empty((x.shape[1], 1, kh, kw), dtype=torch.float32) for kh, kw in zip(heights, widths)]


def _check(xs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> None:
    """Raises if maps of the shapes and types of xs cannot be convolved with kernels of these (C, 1, kh, kw)."""
    if not 1 <= len(shapes) <= MAX_BRANCHES:
        raise ValueError(f'From 1 to {MAX_BRANCHES} branches, got {len(shapes)}.')
    for x in xs:
        if x.dtype not in DTYPES:
            raise TypeError(f'The type must be one of {DTYPES}, got {x.dtype}.')
        if x.dim() != 4 or x.shape != xs[0].shape:
            raise ValueError(f'Maps must be (N, C, H, W), all of one shape; got {[tuple(x.shape) for x in xs]}.')
    for shape in shapes:
        if len(shape) != 4 or shape[0] != xs[0].shape[1] or shape[1] != 1 or shape[2] % 2 == 0 or shape[3] % 2 == 0:
            raise ValueError(f'A kernel must be (C, 1, kh, kw), C = {xs[0].shape[1]}, kh and kw odd; got {tuple(shape)}.')


def _planes(x: Tensor) -> Tuple[Tensor, torch.memory_format]:
    """x in NCHW order, and the memory format that a result must have to be like x."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return x.contiguous(), torch.channels_last if channels_last else torch.contiguous_format


def branches(x: Tensor, weights: Sequence[Tensor]) -> List[Tensor]:
    """Depthwise convolutions of one map, stride 1, zero padding of half a kernel, in one launch. Not differentiable by itself.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16.
        weights (Sequence[Tensor]): One to three kernels (C, 1, kh, kw), both sides odd, of any of these types.

    Returns:
        List[Tensor]: One (N, C, H, W) per kernel, in x's type, summed in float32; channels_last if x is, else contiguous.

    Raises:
        TypeError: Another type.
        ValueError: Other shapes, or more kernels.
    """
    _check([x], [weight.shape for weight in weights])
    x, memory_format = _planes(x)
    return [y.contiguous(memory_format=memory_format) for y in _branches(x, list(weights))]


def summed(xs: Sequence[Tensor], weights: Sequence[Tensor], bias: Optional[Tensor] = None) -> Tensor:
    """Sum over b of the depthwise convolution of xs[b] with weights[b], in one launch. Not differentiable by itself.

    Args:
        xs (Sequence[Tensor]): One map (N, C, H, W) per kernel. They may be one tensor, which is then read once.
        weights (Sequence[Tensor]): As in :func:`branches`.
        bias (Tensor, optional): (C,). Defaults to None.

    Returns:
        Tensor: (N, C, H, W), as in :func:`branches`.

    Raises:
        TypeError, ValueError: As in :func:`branches`.
    """
    if len(xs) != len(weights):
        raise ValueError(f'{len(xs)} maps and {len(weights)} kernels.')
    _check(xs, [weight.shape for weight in weights])
    pairs = sorted(zip(xs, weights), key=lambda pair: not _is_tall(pair[1]))  # tall first: one transposition of the sum
    planes = {id(x): _planes(x) for x in xs}
    memory_format = planes[id(xs[0])][1]
    y = _sum([planes[id(x)][0] for x, _ in pairs], [weight for _, weight in pairs], bias)
    return y.contiguous(memory_format=memory_format)


def weight_gradients(x: Tensor, grads: Sequence[Tensor], shapes: Sequence[Sequence[int]],
                     dtype: Optional[torch.dtype] = None) -> List[Tensor]:
    """Gradients of the kernels of :func:`branches`, summed in float32 in an order that does not vary from run to run.

    Args:
        x (Tensor): The input, (N, C, H, W).
        grads (Sequence[Tensor]): Gradient of each branch's output, (N, C, H, W).
        shapes (Sequence[Sequence[int]]): Each kernel's (C, 1, kh, kw).
        dtype (torch.dtype, optional): Type of the result. Defaults to x's.

    Returns:
        List[Tensor]: One (C, 1, kh, kw) per branch.

    Raises:
        TypeError, ValueError: As in :func:`branches`.
    """
    if len(grads) != len(shapes):
        raise ValueError(f'{len(grads)} gradients and {len(shapes)} shapes.')
    _check([x, *grads], shapes)
    heights, widths = [shape[2] for shape in shapes], [shape[3] for shape in shapes]
    gradients = _weight_gradients(x, list(grads), heights, widths)
    return [gradient.to(dtype or x.dtype) for gradient in gradients]
