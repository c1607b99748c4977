"""Permutation symmetries of the networks in `permlab.models.vision`: `declare(model)`.

Written down by hand, layer by layer, as ground truth for the inferred ones (arXiv 2209.04836).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

from permlab.errors import UserError
from permlab.models.vision import MLP, VGG, BasicBlock, ChannelLayerNorm, ResNet, TransformerBlock, ViT
from permlab.symmetry.groups import HeadGroup
from permlab.symmetry.spec import Block, Spec

M = TypeVar("M", bound=nn.Module)


def declare(model: nn.Module) -> Spec:
    """The spec of one of our networks.

    Raises:
        UserError: the module is of another class (use `infer`).
    """
    if isinstance(model, MLP):
        return _mlp(model)
    if isinstance(model, VGG):
        return _vgg(model)
    if isinstance(model, ResNet):
        return _resnet(model)
    if isinstance(model, ViT):
        return _vit(model)
    raise UserError(f"no declared symmetry for {type(model).__name__}: use permlab.symmetry.infer(model, example)")


def use_norm(spec: Spec, name: str, norm: nn.Module, group: str) -> None:
    """Attach a normalisation layer to a channel group: scale, shift, and the running statistics with them."""
    if isinstance(norm, nn.Identity):
        return
    if isinstance(norm, ChannelLayerNorm):
        name, norm = f"{name}.norm", norm.norm
    for tensor in ("weight", "bias"):
        spec.use(f"{name}.{tensor}", 0, group)
    if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        for tensor in ("running_mean", "running_var"):
            spec.use(f"{name}.{tensor}", 0, group)
            # Forgetting these buffers is the classic bug: the channels move, their means and variances do not.
            spec.statistics.add(f"{name}.{tensor}")


def use_layer(spec: Spec, name: str, layer: nn.Module, before: Block | str | None, after: str | None) -> None:
    """Attach a Linear or Conv2d whose inputs are moved by `before` and outputs by the group `after`."""
    if after is not None:
        spec.use(f"{name}.weight", 0, after)
        if layer.bias is not None:
            spec.use(f"{name}.bias", 0, after)
    if before is not None:
        spec.use(f"{name}.weight", 1, before)


def _numbered(layers: Iterable[nn.Module], kind: type[M]) -> list[tuple[int, M]]:
    """(place, layer) of those of one kind: a list of modules does not say what it holds."""
    return [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, kind)]


def _mlp(model: MLP) -> Spec:
    spec = Spec(source="declared mlp")
    before: str | None = None
    for number, layer in _numbered(model.layers, nn.Linear):
        group = spec.channel(f"layers.{number}", layer.out_features)
        use_layer(spec, f"layers.{number}", layer, before, group)
        use_norm(spec, f"norms.{number}", model.norms[number], group)
        before = group
    # Logits are the function's outputs: the rows of the last layer are classes and keep their order.
    use_layer(spec, "head", model.head, before, None)
    return spec


def _vgg(model: VGG) -> Spec:
    spec, channels = Spec(source="declared vgg"), 0
    before: str | None = None
    for number, layer in _numbered(model.features, nn.Conv2d):
        channels = layer.out_channels
        group = spec.channel(f"features.{number}", channels)
        use_layer(spec, f"features.{number}", layer, before, group)
        use_norm(spec, f"features.{number + 1}", model.features[number + 1], group)
        before = group
    # The flattened axis runs over (C, H, W): each channel owns H * W neighbouring entries.
    flattened = Block(before or "", inner=model.hidden.in_features // channels)
    hidden = spec.channel("hidden", model.hidden.out_features)
    use_layer(spec, "hidden", model.hidden, flattened, hidden)
    use_layer(spec, "head", model.head, hidden, None)
    return spec


def _resnet(model: ResNet) -> Spec:
    spec = Spec(source="declared resnet")
    stream = spec.channel("stage0", model.stem.out_channels)
    use_layer(spec, "stem", model.stem, None, stream)
    use_norm(spec, "stem_norm", model.stem_norm, stream)
    for number, stage in _numbered(model.stages, nn.Sequential):
        for place, block in _numbered(stage, BasicBlock):
            stream = _basic_block(spec, f"stages.{number}.{place}", block, stream, f"stage{number}")
    use_layer(spec, "head", model.head, stream, None)
    return spec


def _basic_block(spec: Spec, name: str, block: BasicBlock, before: str, stage: str) -> str:
    """The identity shortcuts of a stage force all its block outputs into one group."""
    # A projection is free to write another order; an identity adds channel i to channel i.
    after = before if block.project is None else spec.channel(stage, block.conv2.out_channels)
    inner = spec.channel(f"{name}.conv1", block.conv1.out_channels)
    use_layer(spec, f"{name}.conv1", block.conv1, before, inner)
    use_norm(spec, f"{name}.norm1", block.norm1, inner)
    use_layer(spec, f"{name}.conv2", block.conv2, inner, after)
    use_norm(spec, f"{name}.norm2", block.norm2, after)
    if block.project is not None:
        use_layer(spec, f"{name}.project", block.project, before, after)
        use_norm(spec, f"{name}.project_norm", block.project_norm, after)
    return after


def use_attention(spec: Spec, group: str, stream: str, names: Sequence[str], *, biases: bool = True) -> None:
    """Attach four Linear layers (query, key, value, output by name) of a head group to the residual stream."""
    for name, space in zip(names, ("query", "key", "value")):
        spec.use(f"{name}.weight", 0, Block(group, space))
        spec.use(f"{name}.weight", 1, stream)
        if biases:
            spec.use(f"{name}.bias", 0, Block(group, space))
    spec.use(f"{names[3]}.weight", 0, stream)
    # Columns of the output projection read value dims head by head: a space of its own, one entry per query.
    spec.use(f"{names[3]}.weight", 1, Block(group, "output"))
    if biases:
        spec.use(f"{names[3]}.bias", 0, stream)


def _vit(model: ViT) -> Spec:
    spec = Spec(source="declared vit")
    # Every block adds to one stream, so one group runs from the patches to the head.
    stream = spec.channel("residual", model.head.in_features)
    use_layer(spec, "patch", model.patch, None, stream)
    spec.use("token", 2, stream)
    spec.use("position", 2, stream)
    for number, block in _numbered(model.blocks, TransformerBlock):
        # Each block's heads and hidden units are seen by that block alone.
        name = f"blocks.{number}"
        use_norm(spec, f"{name}.norm1", block.norm1, stream)
        width = model.head.in_features
        heads = width // block.attention.head_dim
        group = spec.heads(HeadGroup(f"{name}.attention", heads, 1, width // heads, width // heads))
        query, key, value, output = (f"{name}.attention.{layer}" for layer in ("query", "key", "value", "output"))
        use_attention(spec, group, stream, (query, key, value, output))
        use_norm(spec, f"{name}.norm2", block.norm2, stream)
        hidden = spec.channel(f"{name}.fc1", block.fc1.out_features)
        use_layer(spec, f"{name}.fc1", block.fc1, stream, hidden)
        use_layer(spec, f"{name}.fc2", block.fc2, hidden, stream)
    use_norm(spec, "norm", model.norm, stream)
    use_layer(spec, "head", model.head, stream, None)
    return spec
