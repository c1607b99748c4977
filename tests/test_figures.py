"""The one style of all figures: colours that every reader can tell apart, sizes that can be read, used everywhere."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from permlab import figures

PACKAGE = Path(figures.__file__).parent
DRAWING = sorted(path for room in ("tasks", "reports") for path in (PACKAGE / room).rglob("*.py"))
SEEN_AS = {
    "everyone": np.eye(3),
    # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB under D65."""
    t = TO_XYZ @ rgb / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("reader", SEEN_AS)
def test_every_two_colours_differ_for_every_reader(reader):
    seen = {name: lab(np.clip(SEEN_AS[reader] @ linear(color), 0, 1)) for name, color in figures.PALETTE.items()}
    distance = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2)}
    closest = min(distance, key=distance.get)
    assert distance[closest] > 15, f"{closest} are {distance[closest]:.1f} apart for {reader}"  # about 2 is noticeable


def test_every_colour_stands_out_on_white():
    luminance = {name: float(TO_XYZ[1] @ linear(color)) for name, color in figures.PALETTE.items()}
    assert min(1.05 / (value + 0.05) for value in luminance.values()) > 2.2


def test_a_method_keeps_its_colour():
    assert figures.color("weight matching") == figures.PALETTE["blue"]
    assert set(figures.FIXED.values()) <= set(figures.PALETTE)
    assert figures.color("a method nobody listed") == figures.color("a method nobody listed")
    assert figures.color("a method nobody listed") not in (figures.PALETTE["black"], figures.PALETTE["grey"])


def test_a_row_gives_its_colour(monkeypatch):
    monkeypatch.setattr("permlab.registry.color_of", lambda name: {"a method of a plugin": "sky"}.get(name, ""))
    assert figures.color("a method of a plugin") == figures.PALETTE["sky"]


def test_rows_name_colours_of_the_palette():
    from permlab import registry

    given = {row.color for name in registry.TABLES for row in registry.table(name).values()} - {""}
    assert given <= set(figures.PALETTE)


def test_a_method_with_a_row_has_no_second_colour():
    from permlab import registry

    assert [name for name in figures.FIXED if registry.color_of(name)] == []


def test_the_tasks_own_modules_are_looked_at():
    names = {path.relative_to(PACKAGE).as_posix() for path in DRAWING}
    assert "tasks/inverse_permutation/figures.py" in names and len([n for n in names if "figures" in n]) >= 4


def test_type_is_readable_at_column_width():
    sizes = [value for key, value in figures.STYLE.items() if key.endswith("size") and key != "lines.markersize"]
    assert min(sizes) >= 7 and figures.SMALL >= 6
    figure, _ = figures.new(width=1)
    assert figure.get_figwidth() == 3.4
    import matplotlib.pyplot as plt

    plt.close(figure)


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_has_a_style_of_its_own(path):
    text = path.read_text()
    if path.name not in ("html.py", "document.py"):
        assert not re.findall(r"['\"]#[0-9A-Fa-f]{3,6}['\"]", text), "colours come from permlab.figures"
    if "table" not in path.name:  # rows name colours of the palette
        named = re.findall(r"color=['\"](?!white['\"])(\w+)['\"]", text)
        assert not named, "named colours are not those of the palette"
    assert "plt.subplots" not in text and "plt.figure" not in text, "figures are made by figures.new"
    sizes = [float(size) for size in re.findall(r"(?:fontsize|labelsize)=(\d+\.?\d*)", text)]
    assert all(size >= figures.SMALL for size in sizes)


@pytest.mark.parametrize(("low", "high", "least"), [(0.7, 1.5, 3), (0.31, 5.2, 4), (1e-5, 10, 2)])
def test_a_logarithmic_axis_has_labels_however_short_it_is(low, high, least):
    figure, ax = figures.new()
    ax.plot([0, 1], [low, high])
    ax.set_yscale("log")
    figures.readable_log(ax.yaxis)
    figure.canvas.draw()
    labels = [label for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high and label.get_text()]
    assert least <= len(labels) <= 8
