"""`permlab task=merge dataset=stripes`: two classes of noisy 6 x 6 images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from permlab.data.images import ImageData


@dataclass
class StripesConfig:
    """Horizontal (0) against vertical (1) stripes with noise."""

    name: str = "stripes"
    kind: str = "stripes"
    count: int = 200
    """Images, a quarter of them for testing."""


def load_stripes(config: StripesConfig) -> ImageData:
    """Draw the images; the same for every seed."""
    import torch

    from permlab.data.images.image_set import ImageData, normalised, split_images

    generator = torch.Generator().manual_seed(0)
    y = torch.arange(config.count) % 2
    across = (torch.arange(6) % 2).float().expand(6, 6)
    x = torch.where(y[:, None, None] == 0, across.T, across)[:, None]
    x = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return normalised(ImageData("stripes", *split_images(x, y, 0.25, 0), ["horizontal", "vertical"], "stripes"))
