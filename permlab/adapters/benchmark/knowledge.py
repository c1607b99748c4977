"""Knowledge: facts (first name, family name) -> attribute; every adapter learns facts of its own.

>>> knowledge(groups=3, seed=0, facts=600, facts_per_group=40)
"""

from __future__ import annotations

import torch

from permlab.adapters.benchmark.questions import BEGIN, SPECIAL, Benchmark, Group, Questions
from permlab.adapters.benchmark.settings import BenchmarkSettings
from permlab.errors import UserError


def knowledge(
    groups: int, seed: int, facts: int = 600, facts_per_group: int = 40, validation: float = 0.5, names: int = 64
) -> Benchmark:
    """Facts (first name, family name) -> attribute; every group of entities is new, so chance is about 0.01.

    Args:
        groups: adapters.
        seed: of the draw.
        facts: facts of the base.
        facts_per_group: facts of each adapter.
        validation: share of the facts whose recall picks the scale of a merge; the others are the test. All are
            trained on: recall is what is asked.
        names: first names, and as many family names.

    Raises:
        UserError: more facts than names.
    """
    generator = torch.Generator().manual_seed(seed)
    attributes = 100
    total = facts + groups * facts_per_group
    if total > names * names:
        asked = f"{facts} facts and {groups} x {facts_per_group} of the adapters ask for {total} entities"
        raise UserError(f"{asked}; {names * names} names exist")
    # Without replacement: an entity with two attributes in two adapters would make the right answer ambiguous.
    entity = torch.randperm(names * names, generator=generator)[:total]
    value = torch.randint(attributes, (total,), generator=generator)
    # Names recur across entities, so neither half alone tells the attribute: an adapter has to bind the pair.
    first = SPECIAL + entity // names
    family = SPECIAL + names + entity % names
    ids = torch.stack([torch.full_like(first, BEGIN), first, family, SPECIAL + 2 * names + value], dim=1)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, 3] = True
    known = Questions(ids[:facts], answer[:facts])

    def group(name: str, part: Questions, replay: Questions | None) -> Group:
        cut = max(1, round(validation * len(part)))
        return Group(name, part, part.rows(slice(0, cut)), part.rows(slice(cut, None)), 1 / attributes, replay)

    parts = []
    for index in range(groups):
        start = facts + index * facts_per_group
        here = slice(start, start + facts_per_group)
        parts.append(group(f"facts {index + 1}", Questions(ids[here], answer[here]), known))
    vocabulary = SPECIAL + 2 * names + attributes
    return Benchmark("knowledge", vocabulary, known, parts, "exact", group("base facts", known, None))


def from_settings(groups: int, seed: int, settings: BenchmarkSettings, vocabulary: int) -> Benchmark:
    """The benchmark as its row names it; `vocabulary` is not asked."""
    return knowledge(groups, seed, settings.facts, settings.facts_per_adapter, settings.validation)
