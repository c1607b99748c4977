"""What each operation of a traced network does to axes: the rules behind `permlab.symmetry.infer`.

A rule takes the axes of its tensor arguments, unifies those that must move together, and returns its result's axes.
An operation without a rule pins everything it touches and says so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from permlab.symmetry.algebra import Axis, cut, flatten, fresh, length, pin, split, unify

Axes = list[Axis]
Params = Callable[[str], Axes]
"""Name of a parameter of the current module -> its axes (raises KeyError where there is none)."""

POSITIONS = "positions in an image or sequence keep their order"
KERNEL = "positions in a convolution kernel keep their order"
BORING = (POSITIONS, KERNEL, "an input of the model keeps its order", "an output of the model keeps its order")

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Softplus,
    nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.Upsample,
)  # fmt: skip
# Softmax over an axis is here too: it commutes with every permutation of that axis.
UNARY = {
    functional.relu, torch.relu, functional.gelu, functional.silu, functional.leaky_relu, functional.elu, torch.tanh,
    functional.tanh, torch.sigmoid, functional.sigmoid, functional.softplus, functional.hardswish, functional.dropout,
    functional.softmax, torch.softmax, functional.log_softmax, torch.exp, torch.sqrt, torch.rsqrt, torch.abs,
    torch.square, operator.neg, torch.clamp, functional.relu6, functional.mish,
}  # fmt: skip
UNARY_METHODS = {
    "relu", "tanh", "sigmoid", "softmax", "log_softmax", "exp", "sqrt", "rsqrt", "abs", "square", "neg", "contiguous",
    "clone", "float", "double", "to", "type_as", "clamp", "pow", "detach", "relu_",
}  # fmt: skip
BINARY = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd, operator.isub, operator.imul,
    operator.pow, torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
}  # fmt: skip
BINARY_METHODS = {"add", "sub", "mul", "div", "add_", "mul_"}
FUNCTIONAL_POOLS = {
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.max_pool1d,
    functional.avg_pool1d, functional.adaptive_avg_pool1d, functional.interpolate, functional.adaptive_max_pool2d,
}  # fmt: skip


def broadcast(operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Elementwise: axes are aligned from the right and unified; an axis of one entry follows the other operand."""
    result: Axes = []
    for place in range(1, len(shape) + 1):
        axis: Axis | None = None
        for axes in operands:
            if place <= len(axes) and length(axes[-place]) == shape[-place]:
                # Residual sums: entry i of one operand meets entry i of the other, so both follow one permutation.
                axis = axes[-place] if axis is None else unify(axis, axes[-place])
        result.insert(0, axis if axis is not None else fresh(shape[-place], POSITIONS))
    return result


def pooled(axes: Axes, shape: Sequence[int], spatial: int) -> Axes:
    """Batch and channels stay; `spatial` trailing axes become new positions."""
    return axes[: len(axes) - spatial] + [fresh(size, POSITIONS) for size in shape[len(shape) - spatial :]]


def linear(x: Axes, params: Params) -> Axes:
    """[..., in] x [out, in] -> [..., out]."""
    weight = params("weight")
    # W P' P x = W x: columns follow the units they read, rows are units of their own.
    unify(x[-1], weight[1])
    _bias(params, weight[0])
    return [*x[:-1], weight[0]]


def _bias(params: Params, axis: Axis) -> None:
    with suppress(KeyError):
        unify(params("bias")[0], axis)


def convolution(module: nn.Module, x: Axes, shape: Sequence[int], params: Params) -> Axes:
    """[N, in, ...] -> [N, out, ...]; depthwise ones keep their channels, other grouped ones are pinned."""
    weight = params("weight")
    for axis in weight[2:]:
        pin(axis, KERNEL)
    channels = len(shape) - len(weight[2:]) - 1
    if module.groups == 1:
        unify(x[channels], weight[1])
    # Depthwise: one filter per channel, so what goes in and what comes out are the same units.
    elif module.groups == module.in_channels == module.out_channels:
        unify(x[channels], weight[0])
    else:
        reason = f"a convolution with {module.groups} groups lets channels move only with their group"
        for axis in (x[channels], weight[0], weight[1]):
            pin(axis, reason)
    _bias(params, weight[0])
    return [*x[:channels], weight[0], *(fresh(size, POSITIONS) for size in shape[channels + 1 :])]


def normalisation(module: nn.Module, x: Axes, params: Params) -> Axes:
    """BatchNorm, LayerNorm, RMSNorm, GroupNorm: scale, shift and statistics follow the axes they act on."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        # Mean and variance are sums over the units, blind to their order; scale and shift are not.
        over = x[len(x) - len(module.normalized_shape) :]
    else:
        over = [x[1]]
    # One group is a LayerNorm over channels, one channel a group an InstanceNorm: both are blind to the order.
    if isinstance(module, nn.GroupNorm) and module.num_groups not in (1, module.num_channels):
        pin(
            x[1],
            f"GroupNorm with {module.num_groups} groups of channels is left unchanged only by permutations that keep "
            "the groups together, which is not one assignment problem",
        )
    for name in ("weight", "bias", "running_mean", "running_var"):
        try:
            for axis, mine in zip(over, params(name)):
                unify(axis, mine)
        except KeyError:
            continue
    return x


def matmul(x: Axes, y: Axes, shape: Sequence[int]) -> Axes:
    """[..., n, k] @ [..., k, m]; the contracted axes move together."""
    if len(x) < 2 or len(y) < 2:
        for axis in (*x, *y):
            pin(axis, "a product with a vector has no rule")
        return [fresh(size, "a product with a vector has no rule") for size in shape]
    # A contraction sums over the pairs: any order will do, as long as it is the same on both sides.
    unify(x[-1], y[-2])
    return [*broadcast([x[:-2], y[:-2]], shape[:-2]), x[-2], y[-1]]


def attention(q: Axes, k: Axes, v: Axes, shape: Sequence[int]) -> Axes:
    """Scaled dot-product attention: q and k share their last axis, k and v their positions."""
    # Scores are q.k; the softmax then weighs the values of the very positions of the keys.
    unify(q[-1], k[-1])
    unify(k[-2], v[-2])
    return [*broadcast([q[:-2], k[:-2], v[:-2]], shape[:-2]), q[-2], v[-1]]


def multihead(module: nn.MultiheadAttention, operands: Sequence[Axes], params: Params) -> Axes | None:
    """Axes of the output of torch's packed attention module; None for its rarer options."""
    if not module._qkv_same_embed_dim or module.bias_k is not None or len(operands) != 3:
        return None
    packed, out = params("in_proj_weight"), params("out_proj.weight")
    for x in operands:
        unify(x[-1], packed[1])
    heads, width = module.num_heads, module.head_dim
    (h, query), (hk, key), (hv, value) = (split(part, [heads, width]) for part in cut(packed[0], [heads * width] * 3))
    # A head is one unit of three matrices; q and k dims share an order, value dims go with the output projection.
    unify(h, hk)
    unify(h, hv)
    unify(query, key)
    unify(flatten([h, value]), out[1])
    if module.in_proj_bias is not None:
        unify(params("in_proj_bias")[0], packed[0])
        unify(params("out_proj.bias")[0], out[0])
    return [*operands[0][:-1], out[0]]


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """Regroup axes: the shortest runs of old and new axes with equal products are flattened and cut again."""
    result: Axes = []
    old, new = list(axes), list(shape)
    while new:
        take: list[Axis] = []
        sizes = [new.pop(0)]
        wanted, have = sizes[0], 1
        while have != wanted or (not take and old):
            if have < wanted or not take:
                take.append(old.pop(0))
                have *= length(take[-1])
            else:
                sizes.append(new.pop(0))
                wanted *= sizes[-1]
        result += split(flatten(take), sizes)
    return result


def concatenate(parts: Sequence[Axes], dim: int, shape: Sequence[int]) -> Axes:
    """Axes are joined along `dim` and unified elsewhere."""
    result = []
    for place in range(len(shape)):
        if place == dim % len(shape):
            result.append(
                tuple(product for axes in parts for product in axes[place] if product or length(axes[place]) == 1)
            )
            continue
        axis = parts[0][place]
        for axes in parts[1:]:
            axis = unify(axis, axes[place])
        result.append(axis)
    return result


def pieces(axes: Axes, dim: int, sizes: list[int]) -> list[Axes]:
    """chunk and split: one list of axes per piece."""
    dim %= len(axes)
    return [[*axes[:dim], piece, *axes[dim + 1 :]] for piece in cut(axes[dim], sizes)]


def index(axes: Axes, key: Any, shape: Sequence[int]) -> Axes:
    """x[key] for integers, slices, None and Ellipsis; anything else pins the tensor."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in keys):
        for axis in axes:
            pin(axis, "indexing with a tensor has no rule")
        return [fresh(size, "indexing with a tensor has no rule") for size in shape]
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        covered = sum(item is not None and item is not Ellipsis for item in keys)
        keys[place : place + 1] = [slice(None)] * (len(axes) - covered)
    result: Axes = []
    left = list(axes)
    for item in keys:
        if item is None:
            result.append(fresh(1))
            continue
        axis = left.pop(0)
        if isinstance(item, int):
            # A class token, say: which entry it is depends on the position.
            pin(axis, "one entry of this axis is picked out")
            continue
        start, stop, step = item.indices(length(axis))
        if (start, stop, step) == (0, length(axis), 1):
            result.append(axis)
        elif step == 1 and stop > start:
            sizes = [size for size in (start, stop - start, length(axis) - stop) if size]
            result.append(cut(axis, sizes)[1 if start else 0])
        else:
            pin(axis, "a strided slice picks entries by position")
            result.append(fresh(len(range(start, stop, step)), "a strided slice picks entries by position"))
    return result + left
