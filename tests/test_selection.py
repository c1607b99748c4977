"""The k-th largest magnitude of pieces is that of everything sorted."""

from __future__ import annotations

import pytest
import torch

from permlab.selection import kth_magnitudes


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_counted_digit_by_digit_is_what_sorting_gives(kind):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5000, generator=generator, dtype=kind) * 10.0 ** torch.randint(-12, 12, (5000,))
    second = torch.randint(-3, 4, (777,), generator=generator).to(kind)  # ties and zeros
    pieces = [(first[:1000].view(10, 100), second), (first[1000:1000], None), (first[1000:], None)]
    for share in (0.0002, 0.1, 0.5, 0.9, 1.0):
        found = kth_magnitudes(lambda: iter(pieces), lambda count: max(1, round(share * count)))  # noqa: B023
        for whole, value in zip((first, second), found):
            kept = max(1, round(share * len(whole)))
            assert value.dtype == kind and value == whole.abs().sort(descending=True).values[kept - 1]


def test_where_nothing_is_kept_the_limit_is_infinite():
    found = kth_magnitudes(lambda: [(torch.ones(3), torch.ones(100))], lambda count: int(0.1 * count))
    assert found[0] == float("inf") and found[1] == 1
