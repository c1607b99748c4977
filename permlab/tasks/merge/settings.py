"""The keys of `task=merge`; those of networks, matchings and merges are the library's."""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.keys import choice
from permlab.matching.table import MATCHES
from permlab.merging.networks.options import EndpointTraining, ExpertOptions, PairOptions, TextScoring
from permlab.merging.setting import MergeOptions
from permlab.merging.table import COMBINES, RENORMS
from permlab.tasks.merge.table import ANALYSES, STUDIES, USUAL
from permlab.text.settings import GeneralText


@dataclass
class HealthText(GeneralText):
    """Text on which a merged language model is asked whether it still speaks, beside the networks it was made of."""

    factor: float = 2.0
    """A perplexity so many times that of the worst network merged is a warning."""
    harness: list[str] = field(default_factory=list)
    """Tasks of lm-evaluation-harness, for all of them: `[arc_easy]`; needs `permlab[lm-eval]`."""
    harness_limit: int | None = None
    """Questions of each of these tasks; null = all."""


@dataclass
class MergeConfig(PairOptions, MergeOptions):
    """`task=merge`"""

    name: str = "merge"
    study: str = choice("merge", STUDIES)
    """merge: arms and barrier curves; lmc: distances, spectra, three models; pleas: partial merges; width: widths."""
    models: list[str] = field(default_factory=list)
    """Networks to merge: Hugging Face folders, or .safetensors files of `model`; empty trains them here."""
    ancestor: str | None = None
    """combine=task_arithmetic|ties: the network that all were fine-tuned from."""
    recipe: str | None = None
    """A merge written down in mergekit's YAML, in place of models, ancestor, combine, weights and the like."""
    tokenizer: str | None = None
    """base (the ancestor's, or the first network's), union (others' tokens behind it), a folder; null: the first's."""
    extract_rank: int | None = None
    """Merge nothing: write what fine-tuning changed since `ancestor` in every network as a LoRA of this rank."""
    scales: list[float] = field(default_factory=list)
    """Values of `scale` tried on the texts that are not held out; the best one is taken. Empty takes `scale`."""
    match: str = choice("weight", MATCHES)
    """How units of the networks are matched before they are merged."""
    combine: str = choice("average", COMBINES)
    """How matched networks become one."""
    renorm: str = choice("none", RENORMS)
    """What is done to the statistics of the merge; reset is BatchNorm's, or REPAIR where there are none."""
    compare: list[str] = field(default_factory=list)
    """study=merge|pleas: more arms beside the controls, as match[/combine][+renorm]: activation/least_squares."""
    controls: bool = True
    """identity, random, untrained, renormalise only and ensemble arms."""
    pairs: int = 1
    """Pairs of networks trained and merged; seeds derive from `seed`."""
    points: int = 11
    """Points of the barrier curves, ends included; odd. 3 scores the midpoint only."""
    widths: list[float] = field(default_factory=list)
    """study=width: widths tried; empty takes model.width only."""
    analyses: list[str] = choice(USUAL, ANALYSES)
    """study=lmc: what is measured, any of them."""
    general: HealthText = field(default_factory=HealthText)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    text: TextScoring = field(default_factory=TextScoring)
    train: EndpointTraining = field(default_factory=EndpointTraining)
