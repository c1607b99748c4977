"""The page of a report with every kind of run in it; its building takes most of the time."""

from __future__ import annotations

import itertools
import re

import pytest
from markup import Page

from permlab.reports.document import Cards, Figure, Table, Text

pytestmark = pytest.mark.slow


@pytest.fixture
def built(sample):
    return sample.report, sample.page, sample.text, sample.folder


def test_text_of_runs_is_escaped(built, sample):
    _, page, text, _ = built
    assert sample.evil not in page and sample.evil not in text
    assert "&lt;script&gt;" in page
    assert len(Page(page).all("script")) == 1
    assert re.search(r"<[a-z]", re.sub(r"<br>", "", text)) is None


def test_nothing_is_loaded_from_elsewhere(built):
    _, page, _, _ = built
    for tag, attributes in Page(page).elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            if value and not (name == "href" and tag == "a"):
                assert value.startswith("data:"), (tag, value[:80])
        assert not any(name.startswith("on") for name in attributes), tag
    assert "http://" not in re.sub(r"data:[^\"]*", "", page) and "https://" not in re.sub(r"data:[^\"]*", "", page)
    policy = next(m["content"] for m in Page(page).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_headings_ids_and_tables(built):
    _, page, _, _ = built
    found = Page(page)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in found.all("a") if a["href"].startswith("#")]
    assert set(links) <= set(ids) and len(links) > 12
    assert all(th.get("scope") in ("col", "row") for th in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table")) == len(found.all("thead"))
    assert all(image.get("alt") is not None for image in found.all("img"))
    drawings = [image for image in found.all("img") if image.get("src")]
    assert drawings and all(len(image["alt"]) > 10 for image in drawings)


def test_every_figure_is_inside_once_and_on_disk(built):
    _, page, text, folder = built
    names = [f["id"] for f in Page(page).all("figure")]
    assert names and len(names) == len(set(names)) == len(Page(page).all("figcaption"))
    for path in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (folder / path).is_file()
    for path in re.findall(r"\]\((tables/[^)]+)\)", text):
        assert (folder / path).is_file()


def test_links_to_runs_lead_there(built):
    _, page, _, folder = built
    from urllib.parse import unquote

    links = [a["href"] for a in Page(page).all("a") if a["href"].startswith("..")]
    assert len(links) > 100
    assert all((folder / unquote(link)).exists() for link in links)


def test_every_section_is_filled(built):
    report, _, _, _ = built
    titles = [section.id for section in report.sections]
    tasks = ["task-spt", "task-inverse-permutation", "task-ntk", "task-merge", "task-lora-lego", "task-mine"]
    assert titles == ["paper-against-ours", *tasks, "problems", "runs", "environments"]
    for section in report.sections[1:6]:
        (child,) = section.children
        kinds = {type(block) for block in child.blocks}
        assert {Table, Figure} <= kinds, section.id
        said = [block.text for block in child.blocks if isinstance(block, Text)]
        assert not any("could not be made" in text for text in said), (section.id, said)


def test_corrupt_runs_stand_in_their_table(built):
    report, _, _, _ = built
    problems = next(section for section in report.sections if section.id == "problems")
    table = problems.blocks[0]
    assert sorted({row["status"] for row in table.rows}) == ["corrupt", "failed", "interrupted"]
    assert all(row["what happened"] for row in table.rows)
    notes = problems.blocks[1]
    assert any("cannot be read" in row["note"] for row in notes.rows)


def test_first_table_is_paper_against_ours(built):
    report, page, text, _ = built
    counts, first = report.sections[0].blocks[:2]
    assert isinstance(counts, Cards)
    assert list(first.headings().values()) == [
        *("experiment", "claim, source", "ours (mean ± sd, repeats)", "verdict", "minutes used")
    ]
    assert page.index("<table") == page.index('<table id="table-paper_against_ours"')
    assert text.index("## Paper against ours") < text.index("| experiment |")


def test_the_cards_are_those_of_the_first_table(built):
    report, _, _, _ = built
    cards, table = report.sections[0].blocks[:2]
    own = [block for block in report.sections[0].blocks if isinstance(block, Table)][1]
    assert own.name == "own_claims" and {r["experiment"] for r in own.rows}.isdisjoint(
        r["experiment"] for r in table.rows
    )
    assert [card.label for card in cards.cards][:4] == ["reproduced", "toy scale only", "partly", "not reproduced"]
    verdicts = [row["verdict"].partition(" (")[0] for row in table.rows]
    assert {card.label: card.count for card in cards.cards if card.count} == {v: verdicts.count(v) for v in verdicts}
