from __future__ import annotations

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.merging import (
    Decomposition,
    l2_distance,
    l2_reduction,
    mean_alignment,
    polar_cosine,
    polar_factor,
    singular_values,
    truncated,
)
from permlab.symmetry import Spec, apply


def pair(name="mlp"):
    _, _, spec = build(name)
    return spec, *(
        {key: value.double() for key, value in build(name, seed=seed)[0].state_dict().items()} for seed in (0, 1)
    )


def pairwise_r(a, b, gamma):
    """The formula as printed: a loop over pairs of singular vectors; returns (sum, sqrt(k_A k_B))."""
    (ua, sa, va), (ub, sb, vb) = (torch.linalg.svd(each.flatten(1), full_matrices=False) for each in (a, b))
    ka, kb = (int((s >= gamma * s[0]).sum()) for s in (sa, sb))
    total = 0.0
    for i in range(ka):
        for j in range(kb):
            total += float((ua[:, i] @ ub[:, j]) * (va[i] @ vb[j]))
    return total, (ka * kb) ** 0.5


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("name", ["mlp", "vgg11"])
def test_r_is_the_double_sum_over_singular_vectors(name, gamma):
    spec, a, b = pair(name)
    found = polar_cosine(spec, a, b, gamma)
    parts = {key: pairwise_r(a[key], b[key], gamma) for key in found.layers}
    assert found.total == pytest.approx(sum(p for p, _ in parts.values()) / sum(n for _, n in parts.values()), abs=1e-9)
    assert found.layers == pytest.approx({key: p / n for key, (p, n) in parts.items()}, abs=1e-9)
    assert {"head.weight", "layers.0.weight" if name == "mlp" else "features.0.weight"} <= found.layers.keys()


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vit-tiny"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_r_of_a_network_with_itself_is_one(name, gamma):
    spec, a, _ = pair(name)
    found = polar_cosine(spec, a, a, gamma)
    assert found.total == pytest.approx(1, abs=1e-9)
    assert all(value == pytest.approx(1, abs=1e-9) for value in found.layers.values())
    assert all(k == m for k, m in found.kept.values())


def test_r_is_the_same_after_permuting_or_flipping_both_networks():
    spec, a, b = pair()
    wanted = polar_cosine(spec, a, b, 0.3).total
    permutation = spec.random(torch.Generator().manual_seed(0))
    moved = polar_cosine(spec, apply(spec, a, permutation), apply(spec, b, permutation), 0.3).total
    assert moved == pytest.approx(wanted, abs=1e-9)

    def flip(state):
        """Turn the sign of every other hidden unit: the function of a network with odd activations stays."""
        signs = torch.ones(24, dtype=torch.float64)
        signs[::2] = -1
        weights = {"layers.0.weight": signs[:, None], "layers.1.weight": signs}
        return {key: value * weights.get(key, 1.0) for key, value in state.items()}

    assert polar_cosine(spec, flip(a), flip(b), 0.3).total == pytest.approx(wanted, abs=1e-9)
    assert polar_cosine(spec, a, flip(a)).total < 0.9


def test_polar_factor_does_not_see_the_basis_of_equal_singular_values():
    u, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    v, _ = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    factor, kept = polar_factor(2 * (u @ turn) @ (v @ turn).t())
    assert kept == 3 and torch.allclose(factor, u @ v.t())
    assert polar_factor(torch.zeros(3, 4))[1] == 0


def test_scale_does_not_count_and_gamma_is_swept():
    spec, a, b = pair()
    scaled = {key: 3 * value for key, value in b.items()}
    assert polar_cosine(spec, a, scaled, 0.5).total == pytest.approx(polar_cosine(spec, a, b, 0.5).total)
    sweep = mean_alignment(spec, [a, b], (0.0, 0.3))
    assert sweep == {0.0: polar_cosine(spec, a, b).total, 0.3: polar_cosine(spec, a, b, 0.3).total}
    with pytest.raises(UserError, match="out of range"):
        polar_cosine(spec, a, b, 1.5)
    with pytest.raises(UserError, match="no weight matrix"):
        polar_cosine(Spec(), a, b)


def test_truncated_parts_add_up():
    spec, a, _ = pair("vgg11")
    leading, rest = (truncated(spec, a, gamma=0.4, part=part) for part in ("leading", "rest"))
    values = singular_values(spec, a)
    for key, s in values.items():
        assert torch.allclose(leading[key] + rest[key], a[key])
        assert int(torch.linalg.matrix_rank(leading[key].flatten(1))) == int((s >= 0.4 * s[0]).sum())
    assert values.keys() == polar_cosine(spec, a, a).layers.keys()
    assert torch.equal(leading["head.bias"], a["head.bias"])


def test_distances():
    spec, a, b = pair()
    names = [key for key in a if key != "head.bias"]
    wanted = torch.cat([(a[key] - b[key]).flatten() for key in names]).norm()
    assert l2_distance(spec, a, b) == pytest.approx(float(wanted))
    permutation = spec.random(torch.Generator().manual_seed(0))
    moved = apply(spec, b, permutation)
    after = torch.cat([(a[key] - moved[key]).flatten() for key in names]).norm()
    assert l2_reduction(spec, a, b, permutation) == pytest.approx(float((wanted - after) / wanted))
    back = {part: torch.argsort(index) for part, index in permutation.items()}
    assert l2_reduction(spec, b, moved, back) == pytest.approx(1)
    assert l2_reduction(spec, a, a, spec.identity()) == 0


@pytest.mark.parametrize("name", ["mlp", "vgg11", "vit-tiny"])
def test_one_decomposition_serves_every_permutation(name):
    spec, a, b = pair(name)
    first, second = Decomposition(spec, a), Decomposition(spec, b)
    for seed in (0, 1):
        permutation = spec.random(torch.Generator().manual_seed(seed))
        for gamma in (0.0, 0.3):
            wanted = polar_cosine(spec, a, apply(spec, b, permutation), gamma)
            assert first.cosine(second, gamma, permutation).total == pytest.approx(wanted.total, abs=1e-9)
    assert first.cosine(second, 0.3).total == polar_cosine(spec, a, b, 0.3).total
