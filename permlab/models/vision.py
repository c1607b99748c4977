"""Small image classifiers in plain torch: `build_vision_model("resnet20", shape=(1, 8, 8), classes=10, width=4)`.

Everything here can be traced by torch.fx, and every shortcut that changes its shape is a projection: zero-padded
shortcuts would tie channels of different stages by position and leave nothing to permute (arXiv 2209.04836, A.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from permlab.errors import UserError
from permlab.models.table import VISION
from permlab.models.vision_config import check_architecture

VGG11_PLAN: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of [N, C, H, W], separately at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


def _norm(kind: str, channels: int, *, spatial: bool) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if kind == "layer":
        return ChannelLayerNorm(channels) if spatial else nn.LayerNorm(channels)
    return nn.Identity()


class MLP(nn.Module):
    """Flatten, then `depth` hidden layers of `width` ReLU units, then a linear classifier."""

    def __init__(self, inputs: int, classes: int, width: int = 512, depth: int = 3, norm: str = "none") -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(_norm(norm, width, spatial=False) for _ in range(depth))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> logits [N, classes]."""
        x = torch.flatten(x, 1)
        for layer, norm in zip(self.layers, self.norms):
            x = functional.relu(norm(layer(x)))
        logits: Tensor = self.head(x)
        return logits


class VGG(nn.Module):
    """Convolutions with max pooling, one hidden fully connected layer, a linear classifier.

    Pooling stops when the image is `min_side` pixels wide, so that 8 x 8 digits fit the 32 x 32 plan; the flattened
    features then hold min_side^2 entries per channel.
    """

    def __init__(
        self, channels: int, side: int, classes: int, plan: Sequence[int | str], hidden: int, norm: str, min_side: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for entry in plan:
            if isinstance(entry, str):
                if side // 2 >= min_side:
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
                continue
            layers += [nn.Conv2d(channels, entry, 3, padding=1), _norm(norm, entry, spatial=True), nn.ReLU()]
            channels = entry
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * side * side, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, classes]."""
        x = torch.flatten(self.features(x), 1)
        logits: Tensor = self.head(functional.relu(self.hidden(x)))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; a 1 x 1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = _norm(norm, outputs, spatial=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = _norm(norm, outputs, spatial=True)
        self.project: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)
            self.project_norm = _norm(norm, outputs, spatial=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.project is not None:
            x = self.project_norm(self.project(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A stem, one stage per entry of `channels` with `blocks` basic blocks each, global mean, a linear classifier."""

    def __init__(self, inputs: int, classes: int, channels: Sequence[int], blocks: int, norm: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, channels[0], 3, padding=1, bias=norm == "none")
        self.stem_norm = _norm(norm, channels[0], spatial=True)
        stages, before = [], channels[0]
        for number, after in enumerate(channels):
            stage = []
            for block in range(blocks):
                stage.append(BasicBlock(before, after, 2 if number and not block else 1, norm))
                before = after
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, classes]."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class SelfAttention(nn.Module):
    """Multi-head self-attention without a mask; `heads` divides `width`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> the same shape."""
        n, t, _ = x.shape
        split = (n, t, -1, self.head_dim)  # as many heads as the weights have: merged networks may have more
        q = self.query(x).view(split).transpose(1, 2)
        k = self.key(x).view(split).transpose(1, 2)
        v = self.value(x).view(split).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.output(y.transpose(1, 2).reshape(n, t, -1))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer GELU network of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> the same shape."""
        x = x + self.attention(self.norm1(x))
        added: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return x + added


class ViT(nn.Module):
    """Patches, a class token, learned positions, pre-norm blocks, a linear classifier on the class token."""

    def __init__(self, inputs: int, side: int, classes: int, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(inputs, width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, classes]."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def build_mlp(shape: tuple[int, int, int], classes: int, width: float, depth: int, norm: str) -> nn.Module:
    """An `MLP` of `depth` layers of `width` units."""
    return MLP(math.prod(shape), classes, int(width), depth, norm)


def build_vgg11(shape: tuple[int, int, int], classes: int, width: float, depth: int, norm: str) -> nn.Module:
    """The VGG-11 plan (arXiv 1409.1556, table 1, A) with every count times `width`; `depth` is not used."""
    channels, _, side = shape
    plan = [entry if isinstance(entry, str) else scaled(entry, width) for entry in VGG11_PLAN]
    return VGG(channels, side, classes, plan, scaled(512, width), norm, min_side=1 if side >= 32 else 2)


def build_resnet20(shape: tuple[int, int, int], classes: int, width: float, depth: int, norm: str) -> nn.Module:
    """The CIFAR ResNet (arXiv 1512.03385, 4.2; n = `depth`) with every channel count times `width`."""
    return ResNet(shape[0], classes, [scaled(count, width) for count in (16, 32, 64)], depth, norm)


def build_resnet_tiny(shape: tuple[int, int, int], classes: int, width: float, depth: int, norm: str) -> nn.Module:
    """Two stages at 8 and 16 channels times `width`."""
    return ResNet(shape[0], classes, [scaled(count, width) for count in (8, 16)], depth, norm)


def build_vit_tiny(shape: tuple[int, int, int], classes: int, width: float, depth: int, norm: str) -> nn.Module:
    """A `ViT` of four heads of 12 times `width`; its layer norms are its own and `norm` is not used.

    Raises:
        UserError: the patches do not divide the image.
    """
    channels, _, side = shape
    patch = 2 if side <= 16 else 4
    if side % patch:
        raise UserError(f"vit-tiny cuts images into {patch} x {patch} patches, which does not divide {side} pixels")
    heads = 4
    return ViT(channels, side, classes, heads * scaled(12, width), depth, heads, patch)


def scaled(count: int, width: float) -> int:
    """A channel count times the width, at least one."""
    return max(1, round(count * width))


def build_vision_model(
    name: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: int | None = None,
    norm: str | None = None,
) -> nn.Module:
    """Build one of the small classifiers with freshly initialised weights (seed torch before).

    Args:
        name: of a row of `permlab.models.table.VISION`: mlp, vgg11, resnet20, resnet-tiny, vit-tiny.
        shape: (channels, height, width) of one image.
        classes: number of classes.
        width: mlp: number of units of each hidden layer; the others: multiplier of the usual channel counts.
        depth: mlp: hidden layers (3); resnets: blocks per stage (3; tiny 1); vit-tiny: blocks (4); vgg11: not used.
        norm: none, batch or layer; default batch for the convolutional nets, none for the mlp; vit-tiny has its own.

    Raises:
        UserError: an unknown name, or a value that the architecture cannot have.
    """
    row = VISION[name]
    check_architecture(name, width, depth, norm)
    _, height, side = shape
    if row.square and height != side:
        raise UserError(f"{name} needs square images, but they are {height} x {side}: crop or pad them")
    model: nn.Module = row.load()(shape, classes, width, depth or row.depth or 1, norm or row.norms[0])
    return model
