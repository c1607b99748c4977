"""What one run of `task=ntk` does: `task.mode=train`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class ModeRow(Row):
    """What one run does; `target`: (config, run) -> None.

    Attributes:
        lists: it lists its test inputs one by one, so k has a limit.
        simulates: it is made of simulated runs.
        trains: it trains real networks.
        draws: some of it, the law's band for instance, are runs drawn from the law.
    """

    lists: bool = False
    simulates: bool = False
    trains: bool = False
    draws: bool = False


MODES = Table(
    "mode of ntk",
    [
        ModeRow(
            "law",
            "the closed form, with the band of simulated runs",
            target="permlab.tasks.ntk.law:run_law",
            draws=True,
        ),
        ModeRow(
            "sample",
            "ensembles drawn from the Gaussian process",
            target="permlab.tasks.ntk.law:run_sample",
            lists=True,
            simulates=True,
            draws=True,
        ),
        ModeRow(
            "maps",
            "biases, two hidden layers, label noise, exact addition, by law",
            target="permlab.tasks.ntk.maps:run_maps",
        ),
        ModeRow("train", "real finite networks", target="permlab.tasks.ntk.train:run_train", lists=True, trains=True),
    ],
)
