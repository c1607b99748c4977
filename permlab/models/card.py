"""The card of a trained language model: `write_card(folder, config, "`task=spt`", {"order": "spt"}, {"loss": 0.1})`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from permlab.models.causal_lm_config import CausalLMConfig
from permlab.models.table import OBJECTIVES, WEIGHTS
from permlab.storage.cards import card, is_public, made_by, table
from permlab.storage.files import write_text


def write_card(
    folder: Path, config: CausalLMConfig, how: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Write the README.md of a saved model or adapter: what it was made from and with, how good it is, how to load it.

    Args:
        folder: as `save_causal_lm` wrote it; the card that PEFT puts there is replaced.
        config: what was trained.
        how: which task of permlab, and its source.
        settings: of the training, for people.
        metrics: final numbers.
    """
    path, lora = config.path, config.lora.rank
    pretrained = WEIGHTS[config.weights].pretrained
    # A folder of this machine means nothing to others, and its path may tell what should not be told.
    known = path if path and is_public(path) else "a local model" if path else "sizes of `model=" + config.name + "`"
    base = f"{known}{'' if pretrained else ', from random weights'}"
    rows = {"base model": base, **({"LoRA rank": lora, "LoRA alpha": config.lora.alpha} if lora else {}), **settings}
    masked = OBJECTIVES[config.objective].masked
    whole = "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    loader, package = ("AutoPeftModelForCausalLM", "peft") if lora else (whole, "transformers")
    code = [f"from {package} import {loader}", "from transformers import AutoTokenizer", ""]
    code += [f'{kind} = {source}.from_pretrained("FOLDER_OR_ID")' for kind, source in
             (("model", loader), ("tokenizer", "AutoTokenizer"))]  # fmt: skip
    parts: list[str | list[str]] = [
        made_by(how),
        table(("setting", "value"), rows.items()),
        table(("metric", "value"), metrics.items()),
        ["```python", *code, "```"],
    ]
    title = "LoRA adapter" if lora else "Masked language model" if masked else "Causal language model"
    tags = ["lora"] if lora else ["fill-mask" if masked else "text-generation"]
    bases = [path] if path and pretrained else []
    write_text(folder / "README.md", card(title, parts, library=package, tags=tags, bases=bases))
