"""Does PEFT give the outputs of base + delta W? `peft_output_gap(base, "merged", open_adapter("merged"))`."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from permlab.adapters.apply import applied
from permlab.adapters.factors import AdapterSource


@torch.no_grad()
def peft_output_gap(base: Any, folder: str | Path, merged: AdapterSource) -> float:
    """Largest difference of the logits on a few tokens, relative to the largest logit.

    Args:
        base: the model the adapters belong to; left as it was.
        folder: the merge as PEFT loads it.
        merged: the same merge, never written.
    """
    import peft

    ids = torch.arange(4, 12, device=base.device)[None]
    with applied(base, merged):
        wanted = base(ids).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names inside transformers and tied embeddings, see train_adapter
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    return float((loaded(ids).logits - wanted).abs().max() / wanted.abs().max())
