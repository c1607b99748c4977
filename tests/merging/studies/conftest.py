"""Tiny trained networks for the studies of merging."""

from __future__ import annotations

import pytest

from permlab.data.images import load_digits_images
from permlab.merging import initial_state, train_endpoint
from permlab.models.vision import build_vision_model
from permlab.symmetry import declare


def trained_networks(parts, width=16, name="mlp", epochs=4, **options):
    """(model, spec, one trained state dict per part)."""
    data = load_digits_images()
    model = build_vision_model(name, shape=data.shape, classes=10, width=width, **options)
    states = [
        train_endpoint(
            model, part, start=initial_state(name, data, k, width=width, **options), epochs=epochs, seed=k
        ).state
        for k, part in enumerate(parts)
    ]
    return model, declare(model), states


@pytest.fixture(scope="session")
def networks():
    """trained_networks(parts, ...) -> (model, spec, one trained state dict per part)."""
    return trained_networks
