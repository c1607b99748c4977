"""A data set of images is one new file, one row and its option: networks train on it, it sweeps, lists and reports."""

from __future__ import annotations

import csv

import pytest
from overlay import overlay

DATA = '''"""Bright and dark squares with noise: `make_squares(64).classes` is 2."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.errors import check_range


@dataclass
class SquaresConfig:
    """Generated squares."""

    name: str = "squares"
    kind: str = "squares"
    count: int = 64
    """Images in all."""


def check_squares(config):
    """Check the number of images."""
    check_range("dataset.count", config.count, 16)


def load_squares(config):
    """Make the images of a configuration."""
    import torch

    from permlab.data.images.image_set import ImageData, normalised, split_images

    y = torch.arange(config.count) % 2
    noise = torch.rand(config.count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = 0.5 * noise + 0.5 * y[:, None, None, None]
    return normalised(ImageData("squares", *split_images(x, y, 0.25, 0), ["dark", "bright"], "generated squares"))
'''
OPENING = 'DATASETS = Table(\n    "data set",\n    [\n'
ROW = """        DataRow(
            "squares",
            "generated bright and dark squares",
            target="permlab.data.images.squares:SquaresConfig",
            check="permlab.data.images.squares:check_squares",
            images="permlab.data.images.squares:load_squares",
        )"""
OPTION = """# permlab task=merge dataset=squares      generated squares
defaults:
  - /schema/dataset/squares@_here_
  - _self_
"""
SMALL = ["model.width=8", "task.train.epochs=1", "task.points=3", "task.controls=false", "tracker=none", "hardware=cpu"]


@pytest.mark.slow
def test_an_image_data_set_is_one_file_one_row_and_its_option(permlab, tmp_path, tmp_path_factory):
    folder = overlay(
        tmp_path_factory.mktemp("copy"),
        {"permlab/data/images/squares.py": DATA, "conf/dataset/squares.yaml": OPTION},
        {"permlab/data/table.py": (OPENING, ROW)},
    )
    path = {"PYTHONPATH": str(folder)}
    done = permlab("task=merge", "dataset=squares", "run.dir=run", *SMALL, **path)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run" / "tables" / "arms.csv").open() as file:
        assert "weight matching" in {row["arm"] for row in csv.DictReader(file)}
    assert (tmp_path / "run" / "figures" / "arms.svg").is_file()
    swept = permlab("-m", "task=merge", "dataset=squares", "dataset.count=32,64", *SMALL, **path)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    listed = permlab("ls", "datasets", **path)
    assert "squares" in listed.stdout and "generated squares" in listed.stdout, listed.stdout + listed.stderr
    report = permlab("task=report", "tracker=none", "report.runs=[run]", **path)
    assert report.returncode == 0, report.stdout + report.stderr
    (page,) = tmp_path.glob("outputs/report/*/report.md")
    assert "squares" in page.read_text()
    for arguments, words in (
        (["dataset=squares", "dataset.count=8"], "dataset.count=8 is out of range"),
        (["dataset=squares", "model=tiny-llama"], "dataset=squares has no texts"),
        (["dataset=square"], "did you mean 'squares'"),
    ):
        refused = permlab("task=merge", *arguments, "run.dry_run=true", **path)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
    unfit = permlab("task=spt", "dataset=squares", "run.dry_run=true", **path)
    assert unfit.returncode == 2 and "does not fit task=spt" in unfit.stderr
