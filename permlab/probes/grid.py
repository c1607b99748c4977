"""Does depth help, and does what was learned carry to longer problems? `deeper(layouts, Depths())` is the networks.

Each function returns networks by label or rows of a table; `series.Series` trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from permlab.probes.construction import construction_weights
from permlab.probes.floors import row_accuracy_ceiling
from permlab.probes.grid_settings import DISENTANGLED, Depths, Lengths
from permlab.probes.layout import Layout
from permlab.probes.lengths import Part
from permlab.probes.measure import BELOW, average, rates
from permlab.probes.network import Network
from permlab.probes.residual import Residual
from permlab.probes.training import Training
from permlab.probes.transformer import Transformer
from permlab.tables import Row


def deeper(layouts: Mapping[str, Layout], shapes: Depths) -> dict[str, Network]:
    """Return label -> residual transformer: every shape on every layout, shallow ones first."""
    return {
        f"{arm}, {layers} layers, {heads} heads, {'mlp' if mlp else 'no mlp'}, {positions}": Residual(
            layout, layers, heads, mlp, positions, shapes.width
        )
        for arm, layout in layouts.items()
        for layers in shapes.layers
        for heads in shapes.heads
        for mlp in shapes.mlp
        for positions in shapes.positions
    }


def depth_row(label: str, training: Training) -> Row:
    """One shape: error and accuracy beside floor and ceiling, and the lowest error of any seed at any time."""
    model, last = training.model, training.curve[-1]
    assert isinstance(model, Residual)
    return {
        "arm": label.partition(",")[0],
        "n": model.layout.n,
        "layers": model.depth,
        "heads": model.heads,
        "mlp": model.mlp,
        "positions": model.positions,
        "test_mse": average(last.test_mse),
        "test_mse_best": min(last.test_mse),
        "test_mse_worst": max(last.test_mse),
        "test_mse_lowest": min(mse for test in training.curve for mse in test.test_mse),
        "mse_floor": training.floor,
        "row_accuracy": average(last.row_accuracy),
        "row_accuracy_worst": min(last.row_accuracy),
        "row_accuracy_ceiling": row_accuracy_ceiling(model.layout),
        **rates(training),
        "steps": last.step,
        "weights": model.size,
        "train_seconds": training.seconds,
    }


def depth_verdict(rows: Sequence[Row]) -> dict[str, float]:
    """Was a floor beaten at any depth, and from which depth on is a problem with floor 0 solved?

    Why one layer of attention alone should need n heads (an argument for scores that do not depend on the bits, no
    proof): what a head gives to output row j is sum_i c_i Y_P[i] / Z + a term of P, and P changes the normaliser Z
    only. With H heads the weights of the n rows of Y_P are a combination of H fixed vectors. They must be close to the
    i-th unit vector when P asks for row i, and vectors close to n different unit vectors have rank n: H >= n. With n
    heads it can be done, each reading one row, of which all that P does not ask for are drowned in a large Z.
    """
    exact = [row for row in rows if row["mse_floor"] == 0]
    one = [row for row in exact if row["layers"] == 1]
    alone = [row for row in one if not row["mlp"]]
    more = [row for row in exact if row["layers"] > 1]
    kinds = dict.fromkeys(row["positions"] for row in more)
    return {
        "points": len(rows),
        "train_seconds": sum(row["train_seconds"] for row in rows),
        "below_floor": sum(row["test_mse_lowest"] < row["mse_floor"] - BELOW for row in rows),
        "one_layer_at_floor": _best([row for row in alone if row["heads"] < row["n"]]),
        "one_layer_n_heads_at_floor": _best([row for row in alone if row["heads"] >= row["n"]]),
        "one_layer_mlp_at_floor": _best([row for row in one if row["mlp"]]),
        "deeper_at_floor_mean": average([row["at_floor"] for row in more]),
        "deeper_at_floor_least": min((row["at_floor"] for row in more), default=0.0),
        **{f"{kind}_at_floor": min(r["at_floor"] for r in more if r["positions"] == kind) for kind in kinds},
        "solved_from_layers": min((row["layers"] for row in exact if row["at_floor"] >= 0.9), default=-1),
    }


def _best(rows: Sequence[Row]) -> float:
    """Largest share of seeds at the floor; 0 without rows."""
    return max((float(row["at_floor"]) for row in rows), default=0.0)


# ---- longer problems -------------------------------------------------------------------------------------------------


def length_models(layout: Layout, keys: Lengths, width: int) -> tuple[dict[str, Network], dict[str, Part]]:
    """Return the networks by label, `network/prefix` and `network/spread`, and what each is trained on."""
    models: dict[str, Network] = {}
    for name in keys.networks:
        made: Network = (
            Transformer(layout)
            if name == DISENTANGLED
            else Residual(layout, keys.layers, keys.heads, True, name, width)
        )
        models |= {f"{name}/prefix": made, f"{name}/spread": made}
    return models, {label: Part(keys.size, label.endswith("/spread")) for label in models}


@torch.no_grad()
def length_rows(
    label: str, model: Network, weights: torch.Tensor, spread: bool, seeds: Sequence[int], sizes: Sequence[int]
) -> list[Row]:
    """Error and accuracy of networks at every size, mean and worst over seeds.

    Args:
        label: of the rows.
        model: of n rows.
        weights: (seeds, size).
        spread: whether the rows stand anywhere, or at the first places.
        seeds: of the test problems; one for each network.
        sizes: rows of the test problems.
    """
    rows = []
    for size in sizes:
        part = Part(size, spread)
        x, y = (torch.stack(each) for each in zip(*(part.held_out(model.layout, 128, seed) for seed in seeds)))
        output = model.forward(model.unpack(weights), x.to(weights))
        mse, right = part.error(output, y.to(weights)).tolist(), part.accuracy(output, y.to(weights)).tolist()
        row: Row = {"network": label, "size": size, "test_mse": average(mse), "row_accuracy": average(right)}
        rows.append(row | {"row_accuracy_best": max(right), "row_accuracy_worst": min(right), "seeds": len(right)})
    return rows


def constructed_lengths(layout: Layout, sizes: Sequence[int]) -> list[Row]:
    """The same of the explicit weights (`construction`): they know nothing of the size."""
    return length_rows("construction", Transformer(layout), construction_weights(layout, 40.0), True, [0], sizes)


def length_verdict(rows: Sequence[Row], trained: int) -> dict[str, float]:
    """Row accuracy of every network at the size of training and at the largest."""
    largest, found = max(row["size"] for row in rows), {}
    for row in rows:
        where = {trained: "trained", largest: "largest"}.get(row["size"])
        if where:
            found[f"{row['network'].replace('/', '_')}_{where}_row_accuracy"] = row["row_accuracy"]
    return found
