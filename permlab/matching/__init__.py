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
    matching = match_networks("weight", spec, model, [a, b], MatchSetting(seed=0))   # or any row of MATCHES, by name
    merged = zip_states(spec, model, [a, b], zip_matching(spec, model, [a, b], batches))

All return one `Matching`: permutations (one per model), costs, scores, clusters (ZipIt), trace, seconds.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
