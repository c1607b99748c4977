from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.merging.methods.repair import batchnorms
from permlab.models.table import VISION
from permlab.models.vision import build_vision_model
from permlab.models.vision_config import VisionConfig, norm_of


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
@pytest.mark.parametrize("name", VISION.choices)
def test_every_network_takes_every_usual_image_size(name, shape):
    model = build_vision_model(name, shape=shape, classes=7, width=16 if name == "mlp" else 0.25).eval()
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_width_multiplies_channels():
    assert build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=512).layers[2].weight.shape == (512, 512)
    assert build_vision_model("resnet20", shape=(1, 8, 8), classes=10, width=4).head.in_features == 256
    assert build_vision_model("vgg11", shape=(3, 32, 32), classes=10).hidden.in_features == 512
    assert build_vision_model("vit-tiny", shape=(1, 8, 8), classes=10, width=2).head.in_features == 96


def test_resnet20_has_twenty_weighted_layers_besides_its_projections():
    model = build_vision_model("resnet20", shape=(1, 8, 8), classes=10)
    weights = [name for name, value in model.named_parameters() if value.dim() > 1 and "project" not in name]
    assert len(weights) == 20


@pytest.mark.parametrize("name", VISION.choices)
def test_what_normalises_a_network_is_known_without_building_it(name):
    for norm in (None, *VISION[name].norms):
        config = VisionConfig(name=name, norm=norm)
        with torch.device("meta"):
            model = build_vision_model(name, shape=(1, 8, 8), classes=10, width=8 if name == "mlp" else 1, norm=norm)
        assert (norm_of(config) == "batch") == bool(batchnorms(model))


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_norms(norm):
    model = build_vision_model("resnet-tiny", shape=(1, 8, 8), classes=10, norm=norm)
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("BatchNorm2d" in kinds, "LayerNorm" in kinds) == (norm == "batch", norm == "layer")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(name="resnet"), "did you mean"),
        (dict(name="mlp", width=0), "above 0"),
        (dict(name="mlp", width=1.5), "number of units"),
        (dict(name="vgg11", depth=3), "depth does not fit"),
        (dict(name="resnet20", norm="group"), "norm=group"),
        (dict(name="resnet20", norm="bach"), "did you mean 'batch'"),
        (dict(name="vit-tiny", norm="batch"), "norm=batch"),
        (dict(name="vgg11", width=512), "a multiple of its usual channels"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_vision_model(shape=(1, 8, 8), classes=10, **options)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="square"):
        build_vision_model("resnet20", shape=(1, 8, 6), classes=10)
    with pytest.raises(UserError, match="patches"):
        build_vision_model("vit-tiny", shape=(1, 9, 9), classes=10)
