"""R against gamma and the singular values behind it: `spectra(subject)["spectra"]`."""

from __future__ import annotations

from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import ARMS, UNTRAINED_ARMS, Tables
from permlab.tables import Row

GAMMAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)


def spectra(subject: Subject) -> Tables:
    """R against gamma for every arm, and the singular values of both networks layer by layer."""
    alignment: list[Row] = []
    values: list[Row] = []
    gaps: list[Row] = []
    for kind, each in (("trained", subject), ("untrained", subject.before_training)):
        first, second = each.spectra
        arms = ARMS if each is subject else UNTRAINED_ARMS
        for gamma in GAMMAS:
            head = {"pair": subject.pair, "networks": kind, "gamma": gamma}
            # R(A, A) = 1 for every gamma: a check of the measure in its own table.
            alignment.append({**head, "arm": "with itself", "r": first.cosine(first, gamma).total})
            for arm in arms:
                # R of arXiv 2402.04051: do the singular vectors above gamma times the largest value point the same way?
                found = first.cosine(second, gamma, each.match(arm.match).permutation)
                alignment.append({**head, "arm": arm.label, "r": found.total})
        for layer, (_, s, _) in first.parts.items():
            other = second.parts[layer][1]
            # Close singular values of both networks mean that the vectors, not the values, are what keeps them apart.
            gap = float((s - other).norm() / s.norm())
            above = float((s >= 0.3 * s[0]).double().mean())
            head = {"pair": subject.pair, "networks": kind, "layer": layer}
            gaps.append({**head, "gap": gap, "largest": float(s[0]), "above_0.3": above})
            if subject.pair == 0:
                for name, column in (("A", s), ("B", other)):
                    values += [
                        {"networks": kind, "network": name, "layer": layer, "index": index, "value": value}
                        for index, value in enumerate(column.tolist())
                    ]
    return {"spectra": alignment, "singular_value_gaps": gaps, "singular_values": values}
