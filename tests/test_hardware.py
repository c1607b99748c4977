"""Hardware profiles: what is not there is one line, what cannot fit is refused before it is loaded."""

from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.hardware import HardwareConfig, check_hardware, resolve_device, resolve_dtype


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device(HardwareConfig()).type == expected
    assert resolve_device(HardwareConfig(device="cpu")).type == "cpu"


def test_a_gpu_that_is_not_there_is_a_user_mistake():
    with pytest.raises(UserError, match="hardware=cpu"):
        resolve_device(HardwareConfig(device=f"cuda:{torch.cuda.device_count()}"))


def test_number_types():
    assert resolve_dtype(HardwareConfig(device="cpu")) is torch.float32
    assert resolve_dtype(HardwareConfig(device="cpu", dtype="bfloat16")) is torch.bfloat16


@pytest.mark.parametrize("threads", ["many", "0", 0, -2])
def test_threads_are_a_number_or_auto(threads):
    with pytest.raises(UserError, match=r"hardware\.threads"):
        check_hardware(HardwareConfig(threads=threads))
    check_hardware(HardwareConfig(threads="auto"))
    check_hardware(HardwareConfig(threads=3))
