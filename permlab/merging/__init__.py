"""Merging networks whose units have been matched, and measuring what the merge did.

    from permlab.matching import activation_matching, weight_matching
    from permlab.merging import (Layout, MacCounter, align, allocate, average, barrier_curve, least_squares,
                                 not_separable, pair_scores, reset_batchnorm)

    matching = weight_matching(spec, a, b)
    states = align(spec, [a, b], matching)                       # B in A's order of units
    merged = reset_batchnorm(model, average(states), train)      # re-basin merging
    curve = barrier_curve(model, *states, test, points=25)       # curve.loss_barrier, curve.midpoint_accuracy

    fixed = not_separable(spec, model, (images,))                # PLeaS: keep part of the units apart
    counter = MacCounter(spec, model, (images,), fixed=list(fixed))
    plan = allocate("uniform", counter, 1.5, fixed=fixed)
    layout = Layout(spec, model, scores=pair_scores(spec, a, b, matching), ratios=plan.ratios)
    merged = least_squares(layout, model, states, train).state   # runs on the same module: call(model, merged, (x,))

    merged = merge_arm(parse_arm("weight/fisher"), spec, model, [a, b], Setting(train)).state    # any of these by name

State dicts come in and go out; the module is only ever called with them. Names and sources are in
`permlab.merging.table`.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
