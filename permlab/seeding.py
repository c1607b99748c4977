"""Random states of python, numpy and torch, set together at the start of every run."""

from __future__ import annotations

import hashlib


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts and on nothing else: (seed, epoch, index) -> one draw."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
