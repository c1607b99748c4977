"""Matching the units of networks: which unit of B does the work of which unit of A.

    from permlab.matching import activation_matching, straight_through, weight_matching, zip_matching, zip_states
    from permlab.symmetry import apply, declare, verify

    spec = declare(model)                                        # the symmetry of the architecture
    verify(spec, model, (images,))                               # float64 check, before every use
    matching = weight_matching(spec, a, b, restarts=2, seed=0)   # a, b: plain state dicts; no data needed
    aligned = apply(spec, b, matching.permutation)               # the same function as b, in a's order of units
    merged = {name: (a[name] + aligned[name]) / 2 for name in a}
    matching = activation_matching(spec, model, [a, b], batches) # or by activations; any number of models
    matching = straight_through(spec, model, [a, b], batches)    # or by the loss of the midpoint
    merged = zip_states(spec, model, [a, b], zip_matching(spec, model, [a, b], batches))

All return one `Matching`: permutations (one per model), costs, scores, clusters (ZipIt), trace, seconds.
"""

from permlab.matching.activation import activation_matching, collect_moments
from permlab.matching.many import weight_matching_many
from permlab.matching.result import Matching
from permlab.matching.simple import identity_matching, random_matching
from permlab.matching.straight_through import straight_through
from permlab.matching.weight import weight_matching
from permlab.matching.zip import zip_matching, zip_states, zip_units

__all__ = [
    "Matching",
    "activation_matching",
    "collect_moments",
    "identity_matching",
    "random_matching",
    "straight_through",
    "weight_matching",
    "weight_matching_many",
    "zip_matching",
    "zip_states",
    "zip_units",
]
