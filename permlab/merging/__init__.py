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

State dicts come in and go out; the module is only ever called with them. Sources are named in the modules.
"""

from permlab.merging.ancestor import task_arithmetic, task_vectors, ties
from permlab.merging.arms import Arm, Merged, Setting, match_arm, merge_arm, parse_arm
from permlab.merging.average import align, average, interpolate
from permlab.merging.barrier import Curve, Taylor, barrier_curve, barrier_curves, taylor_estimate, three_models
from permlab.merging.budget import BUDGETS, Allocation, allocate, measured_gains, weight_gains
from permlab.merging.endpoints import DOMAINS, Endpoint, domain, initial_state, label_split, train_endpoint
from permlab.merging.evaluate import (
    Score,
    batches_of,
    classification_score,
    disagreement,
    ensemble_logits,
    evaluate,
    labels_of,
    language_score,
    logits_of,
    noise_batches,
    score_logits,
    temperature,
)
from permlab.merging.files import load_merged, save_merged
from permlab.merging.heads import (
    TaskScores,
    features,
    find_head,
    head_tensors,
    linear_probe,
    score_tasks,
    task_scores,
    trunk_spec,
)
from permlab.merging.layout import Layout, pair_scores
from permlab.merging.least_squares import Fitted, least_squares
from permlab.merging.macs import MacCounter, Macs
from permlab.merging.regmean import regmean
from permlab.merging.renormalise import REPAIRS, repair, reset_batchnorm
from permlab.merging.separable import not_separable
from permlab.merging.spectra import (
    Alignment,
    Decomposition,
    l2_distance,
    l2_reduction,
    mean_alignment,
    polar_cosine,
    polar_factor,
    singular_values,
    truncated,
)

__all__ = [
    "BUDGETS",
    "DOMAINS",
    "REPAIRS",
    "Alignment",
    "Allocation",
    "Arm",
    "Curve",
    "Decomposition",
    "Endpoint",
    "Fitted",
    "Layout",
    "MacCounter",
    "Macs",
    "Merged",
    "Score",
    "Setting",
    "TaskScores",
    "Taylor",
    "align",
    "allocate",
    "average",
    "barrier_curve",
    "barrier_curves",
    "batches_of",
    "classification_score",
    "disagreement",
    "domain",
    "ensemble_logits",
    "evaluate",
    "features",
    "find_head",
    "head_tensors",
    "initial_state",
    "interpolate",
    "l2_distance",
    "l2_reduction",
    "label_split",
    "labels_of",
    "language_score",
    "least_squares",
    "linear_probe",
    "load_merged",
    "logits_of",
    "match_arm",
    "mean_alignment",
    "measured_gains",
    "merge_arm",
    "noise_batches",
    "not_separable",
    "pair_scores",
    "parse_arm",
    "polar_cosine",
    "polar_factor",
    "regmean",
    "repair",
    "reset_batchnorm",
    "save_merged",
    "score_logits",
    "score_tasks",
    "singular_values",
    "task_arithmetic",
    "task_scores",
    "task_vectors",
    "taylor_estimate",
    "temperature",
    "three_models",
    "ties",
    "train_endpoint",
    "truncated",
    "trunk_spec",
    "weight_gains",
]
