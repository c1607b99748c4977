"""`adapter_config.json` read without PEFT: which rank and scaling each module has, and what we refuse to merge.

>>> LoraSettings.from_json({"peft_type": "LORA", "r": 8, "lora_alpha": 16}).scaling("model.layers.0.q_proj", 8)
2.0
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from permlab.errors import UserError, first_line

# Initialisations that also rewrite the base weights when the adapter is created. Such a file is only right on top of
# the rewritten base, which PEFT rebuilds at loading time, so its product B A is not the update of the original model.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")

# Keys of variants that are more than W + s B A; each maps to the reason shown to the user.
_VARIANTS = {
    "lora_bias": "lora_bias adds a bias to every B, which rank-one units do not hold",
    "use_qalora": "QALoRA pools the inputs in front of A",
    "use_bdlora": "block-diagonal LoRA stores B in another shape",
    "velora_config": "VeLoRA changes the backward pass and the stored factors",
    "monteclora_config": "MonteCLoRA samples its factors",
    "kasa_config": "KaSA adds learned singular values between B and A",
    "arrow_config": "Arrow routes every token between adapters",
    "alora_invocation_tokens": "an activated LoRA only acts after its invocation tokens",
    "target_parameters": "target_parameters adapts bare parameters (mixture-of-experts blocks)",
    "trainable_token_indices": "trainable_token_indices replaces rows of the embedding",
    "layer_replication": "layer_replication changes the layers of the base model",
}
SECONDS, LONGEST = 0.25, 2_000
"""Longest match of one pattern with one module, and longest of both in characters."""


@dataclass(frozen=True)
class LoraSettings:
    """The part of a PEFT LoRA configuration that decides ranks and scalings; `raw` keeps every key as it was read."""

    raw: dict[str, Any]
    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    rslora: bool

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: str = "adapter_config.json") -> LoraSettings:
        """Check and read a configuration; unknown keys are kept in `raw` and ignored.

        Raises:
            UserError: for another adapter kind, a LoRA variant that is more than `W + s B A`, or a malformed value.
        """
        raw = dict(raw)
        _refuse_variants(raw, where)
        base = raw.get("base_model_name_or_path")
        if base is not None and not isinstance(base, str):
            raise UserError(f"{where}: base_model_name_or_path must be a name, not {str(base)[:60]}")
        try:
            settings = cls(
                raw=raw,
                rank=int(raw.get("r", 8)),
                alpha=float(raw.get("lora_alpha", 8)),
                rank_pattern={str(key): int(value) for key, value in (raw.get("rank_pattern") or {}).items()},
                alpha_pattern={str(key): float(value) for key, value in (raw.get("alpha_pattern") or {}).items()},
                rslora=bool(raw.get("use_rslora", False)),
            )
            for pattern in (*settings.rank_pattern, *settings.alpha_pattern):
                regex.compile(pattern[:LONGEST])
        except (TypeError, ValueError, AttributeError, OverflowError, regex.error) as problem:
            raise UserError(f"{where}: a rank, alpha or pattern cannot be read ({first_line(problem, 120)})") from None
        if not all(map(math.isfinite, (settings.alpha, *settings.alpha_pattern.values()))):
            raise UserError(f"{where}: lora_alpha and alpha_pattern must be numbers")
        if settings.rank < 1 or any(rank < 1 for rank in settings.rank_pattern.values()):
            raise UserError(f"{where}: ranks must be at least 1 (r={settings.rank})")
        return settings

    def module_rank(self, module: str) -> int:
        """Rank that the configuration gives to `module` (its path inside the base model)."""
        key = match_pattern(self.rank_pattern, module)
        return self.rank if key is None else self.rank_pattern[key]

    def module_alpha(self, module: str) -> float:
        """`lora_alpha` that the configuration gives to `module`."""
        key = match_pattern(self.alpha_pattern, module)
        return self.alpha if key is None else self.alpha_pattern[key]

    def scaling(self, module: str, rank: int) -> float:
        """Factor s of delta W = s B A: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv 2312.03732)."""
        # By each module's own rank and alpha: with rank_pattern the units of one adapter already differ in scale.
        return self.module_alpha(module) / (math.sqrt(rank) if self.rslora else rank)


def match_pattern(patterns: Iterable[str], module: str) -> str | None:
    """First pattern that matches a whole trailing part of the path `module`, as PEFT resolves rank_pattern.

    A pattern is a regular expression which has to match from the start of the path or from after one of its dots, up
    to its end: `q_proj` fits every q_proj, `^model.q_proj` only the one at the top.
    """
    for pattern in patterns:
        if _matches(rf"(.*\.)?({pattern})$", module):
            return pattern
    return None


def _matches(pattern: str, text: str) -> bool:
    """Match from the start, as `re.match`, for a limited time: a pattern of a few letters can need years.

    Raises:
        UserError: no regular expression, or one that takes longer than `SECONDS`.
    """
    if len(pattern) > LONGEST or len(text) > LONGEST:
        raise UserError(f"the pattern {pattern[:60]} or the module {text[:60]} has more than {LONGEST:,} characters")
    try:
        return regex.match(pattern, text, timeout=SECONDS) is not None
    except TimeoutError:
        said = f"the pattern {pattern[:100]} takes too long to match {text[:60]}"
        raise UserError(f"{said}: write it without nested repeats") from None
    except regex.error as error:
        raise UserError(f"the pattern {pattern[:100]} is no regular expression ({error})") from None


def targets(target_modules: str | list[str] | None, module: str) -> bool:
    """Whether PEFT's `target_modules` (a list of names or path endings, or one regular expression) covers `module`."""
    if target_modules is None:
        return False
    if isinstance(target_modules, str):
        return target_modules == "all-linear" or _matches(rf"(?:{target_modules})\Z", module)
    return any(module == name or module.endswith(f".{name}") for name in target_modules)


def merged_config(
    first: LoraSettings, ranks: Mapping[str, int], target_modules: str | list[str], **changes: Any
) -> dict[str, Any]:
    """Configuration of a merged adapter: every key of the first input, ranks as merged, scaling exactly 1.

    Args:
        first: settings of the first input; keys we do not know are carried over from it.
        ranks: merged rank of every module.
        target_modules: what to write as target_modules.
        changes: further keys to set (for example `modules_to_save`).

    PEFT's own merge copies `use_rslora` next to lora_alpha = r, which scales the result by sqrt(r); here it is cleared.
    """
    counts = list(ranks.values())
    # The commonest rank goes into r and only the others into rank_pattern, which keeps the file short.
    rank = max(set(counts), key=lambda value: (counts.count(value), value))
    # "^" makes PEFT's matching exact: without it the pattern of "a.q" would also catch "b.a.q".
    pattern = {"^" + re.escape(module): value for module, value in sorted(ranks.items()) if value != rank}
    config = dict(first.raw)
    config.update(
        peft_type="LORA",
        r=rank,
        # The scalings are in the factors: alpha = r makes PEFT multiply by 1.
        lora_alpha=rank,
        rank_pattern=pattern,
        # alpha has to follow the rank module by module, or alpha / r would not be 1 where the rank differs.
        alpha_pattern=dict(pattern),
        use_rslora=False,
        use_dora=False,  # magnitudes are folded in
        target_modules=target_modules,
        init_lora_weights=True,
        lora_dropout=0.0,
        inference_mode=True,
        loftq_config={},
    )
    config.update(changes)
    return config


def _refuse_variants(raw: Mapping[str, Any], where: str) -> None:
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        raise UserError(f"{where}: a {kind} adapter cannot be merged by rank; only LoRA adapters (peft_type LORA) can")
    for key, reason in _VARIANTS.items():
        if raw.get(key):
            raise UserError(f"{where}: {key} is set: {reason}; only plain LoRA adapters can be merged")
    init = str(raw.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING_INITS):
        raise UserError(
            f"{where}: init_lora_weights={init} rewrites the base weights; convert it to plain LoRA with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
