from __future__ import annotations

import pytest
import torch
from architectures import VISION, build
from torch import nn
from torch.nn import functional

from permlab.errors import UserError
from permlab.symmetry import HeadGroup, infer, verify

IMAGES = torch.randn(3, 2, 8, 8)


@pytest.mark.parametrize("name", VISION)
def test_inferred_groups_are_the_declared_ones(name):
    model, inputs, spec = build(name)
    inferred = infer(model, inputs)
    assert inferred.signature() == spec.signature()
    assert inferred.statistics == spec.statistics
    assert not inferred.pinned


class Packed(nn.Module):
    """Attention with one q/k/v matrix, cut by chunk, and a hand-written softmax."""

    def __init__(self):
        super().__init__()
        self.embed, self.pack, self.out, self.head = (nn.Linear(i, o) for i, o in ((5, 8), (8, 24), (8, 8), (8, 3)))

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.pack(x).chunk(3, -1)
        q, k, v = (part.reshape(x.shape[0], x.shape[1], 2, 4).permute(0, 2, 1, 3) for part in (q, k, v))
        y = torch.softmax(q @ k.transpose(-2, -1) / 2, dim=-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def test_packed_attention_becomes_a_head_group():
    spec = infer(Packed(), (torch.randn(2, 6, 5),))
    heads = [group for group in spec.groups.values() if isinstance(group, HeadGroup)]
    assert [(g.kv_heads, g.key_dim, g.value_dim) for g in heads] == [(2, 4, 4)]
    assert [block.offset for block in spec.axes["pack.weight"][0]] == [0, 8, 16]
    assert len(spec.groups) == 2  # the heads and the stream


class Dense(nn.Module):
    """Channels are concatenated, as in a DenseNet."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.three, self.head = nn.Conv2d(7, 5, 1), nn.Linear(5 * 16, 2)

    def forward(self, x):
        x = functional.relu(self.one(x))
        x = torch.cat([x, functional.relu(self.two(x))], 1)
        return self.head(functional.max_pool2d(self.three(x), 2).flatten(1))


def test_concatenated_channels_are_separate_blocks_of_one_axis():
    spec = infer(Dense(), (IMAGES,))
    assert [(b.group, b.offset) for b in spec.axes["three.weight"][1]] == [("one", 0), ("two", 3)]
    assert spec.axes["head.weight"][1][0].inner == 16
    assert not spec.pinned


class Depthwise(nn.Module):
    def __init__(self, groups, norm):
        super().__init__()
        self.first, self.middle = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.norm, self.head = norm, nn.Linear(8, 2)

    def forward(self, x):
        return self.head(functional.relu(self.norm(self.middle(self.first(x)))).mean((2, 3)))


def test_depthwise_convolutions_share_their_channels():
    spec = infer(Depthwise(8, nn.GroupNorm(1, 8)), (IMAGES,))
    assert list(spec.groups) == ["first"] and not spec.pinned
    assert {tensor for tensor, _, _ in spec.members("first")} >= {"middle.weight", "norm.weight", "head.weight"}


@pytest.mark.parametrize(
    "model, reason",
    [
        (Depthwise(8, nn.GroupNorm(4, 8)), "GroupNorm with 4 groups"),
        (Depthwise(2, nn.Identity()), "convolution with 2 groups"),
    ],
)
def test_grouped_layers_are_pinned_with_a_sentence(model, reason):
    spec = infer(model, (IMAGES,))
    assert "first" not in spec.groups
    assert any(reason in sentence for sentence in spec.pinned.values())


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of CIFAR ResNets ("option A")."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = functional.relu(self.one(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((self.two(x) + shortcut).mean((2, 3)))


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(functional.relu(self.two(torch.cumsum(self.one(x), -1))))


@pytest.mark.parametrize(
    "model, example, reason, left",
    [
        (PaddedShortcut(), IMAGES, "padded shortcut", set()),
        (Unknown(), torch.randn(3, 4), "cumsum has no rule", {"two"}),
    ],
)
def test_what_no_rule_covers_is_pinned_and_the_rest_stays_free(model, example, reason, left):
    spec = infer(model, (example,))
    assert set(spec.groups) == left
    assert any(reason in sentence for sentence in spec.pinned.values())
    assert max(verify(spec, model, (example,)).values()) < 1e-12


class Fused(nn.Module):
    """torch's own attention module, and an operation whose tensors come as keywords."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.back, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x)[0]
        hidden = self.hidden(x)
        x = x + self.back(torch.mul(input=hidden, other=torch.sigmoid(hidden)))
        return self.head(x.mean(1))


def test_fused_attention_has_heads_and_keyword_tensors_pin():
    spec = infer(Fused(), (torch.randn(2, 5, 4),))
    kinds = {type(group).__name__: group for group in spec.groups.values()}
    assert (kinds["HeadGroup"].kv_heads, kinds["HeadGroup"].key_dim) == (2, 4)
    assert len(spec.groups) == 2 and "mul has no rule" in spec.pinned["hidden.weight axis 0"]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.again, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.enter(x))
        for _ in range(2):
            h = torch.tanh(self.again(h) + self.enter(x))
        return self.head(h)


def test_a_recurrent_matrix_is_a_quadratic_use():
    spec = infer(Recurrent(), (torch.randn(3, 4),))
    assert "again.weight" in spec.quadratic()["enter"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + functional.gelu(self.hidden(x)))


def test_tied_weights_are_one_tensor():
    spec = infer(Tied(), (torch.randint(0, 11, (2, 5)),))
    assert spec.tied == {"head.weight": "embed.weight"}
    assert [group.size for group in spec.groups.values()] == [6]
    assert {"embed.weight", "hidden.weight"} <= {tensor for tensor, _, _ in spec.members(*spec.groups)}


def test_untraceable_modules_are_refused_with_the_way_out():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"cannot trace Branch.*by hand"):
        infer(Branch(), (torch.ones(2),))


def test_one_tensor_is_an_example_input():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    spec = infer(net, inputs)
    assert [group.size for group in spec.groups.values()] == [6]
    assert max(verify(spec, net, inputs).values()) < 1e-9
