"""The page and the Markdown: escaped, self-contained, in order; figures inside once; every section filled."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from markup import Page
from synthetic import write_run

from permlab.reports import html, markdown
from permlab.reports.build import build
from permlab.reports.collect import collect
from permlab.reports.document import Card, Cards, Details, Figure, Items, Lines, Link, Report, Section, Table, Text
from permlab.reports.writer import Output
from permlab.tables import Spread

EVIL = '<script>alert("x")</script>'


def minimal(block):
    return html.to_html(Report("t", "s", [Section("a", "A", [block])]))


def test_numbers_sort_by_value_and_text_does_not():
    rows = [
        {"n": 1234567.891, "s": "b", "m": Spread(0.5, 0.25, 3), "l": Link("x", "a/b c"), "v": Lines((("q", True),))}
    ]
    page = Page(minimal(Table("t", "T", rows)))
    cells = [a for tag, a in page.elements if tag in ("td", "th") and a.get("scope") != "col"]
    assert [cell.get("data-sort") for cell in cells] == ["1234567.891", None, "0.5", None, None]
    assert page.all("a")[-1]["href"] == "a/b c"


def test_empty_columns_and_long_tables():
    rows = [{"a": number, "b": None} for number in range(html.MOST_ROWS + 5)]
    page = minimal(Table("t", "T", rows))
    assert page.count("<tr>") == html.MOST_ROWS + 1
    assert "5 more rows in the CSV" in page
    assert Table("t", "T", rows).headings() == {"a": "a"}
    text = "\n".join(markdown.table_lines(Table("t", "T", rows)))
    assert f"{len(rows) - markdown.MOST_ROWS} more rows" in text


def test_a_drawing_cannot_bring_its_own_script(tmp_path):
    svg = tmp_path / "x.svg"
    svg.write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>")
    page = minimal(Figure("x", "An alt text", "c", None, svg))
    assert EVIL not in page and "<svg" not in page
    assert base64.b64encode(svg.read_bytes()).decode() in page


def test_large_drawings_are_reduced(tmp_path):
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (1400, 2400, 3), dtype=np.uint8)
    path = tmp_path / "big.png"
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > html.LARGEST_PNG
    small = html.reduced(path)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (1600, 933)
    svg = tmp_path / "big.svg"
    svg.write_text("x" * (html.LARGEST_SVG + 1))
    little = tmp_path / "little.png"
    Image.new("RGB", (10, 10)).save(little)
    assert html.data_uri(Figure("x", "a", "c", little, svg)).startswith("data:image/png")
    path.write_bytes(b"no picture" * 400_000)
    assert html.reduced(path) == path.read_bytes()
    assert html.data_uri(Figure("x", "a", "c", None, None)) is None


def test_markdown_cells():
    assert markdown.cell("a|b*c_d`e[f]<g>") == r"a\|b\*c\_d\`e\[f\]&lt;g&gt;"
    assert markdown.cell(Lines((("x", True), ("y", False), ("z", None)))) == "✓ x<br>✗ y<br>z"
    assert markdown.cell(Spread(0.5, 0.1, 3)) == "0.5 ± 0.1"
    assert markdown.cell("two\nlines") == "two lines"


def test_names_of_files_are_safe_and_unique(tmp_path):
    out = Output(tmp_path)
    names = [out.table(name, [{"a": 1}], "T").name for name in ("../../x", "../../x", "a b/c", "", EVIL)]
    assert names == ["x", "x_2", "a_b_c", "unnamed", "script_alert_x_script"]
    assert sorted(p.stem for p in (tmp_path / "tables").iterdir()) == sorted(names)
    assert not (tmp_path.parent / "x.csv").exists()
    assert Path(tmp_path / "tables" / "x.csv").read_text().splitlines() == ["a", "1"]


def test_what_runs_wrote_neither_hides_nor_turns_the_page_nor_shows_a_secret():
    odd = "a\u202eb\x1b[2J\ud800 https://user:hunter2@host"
    report = Report(odd, odd, [Section("s", odd, [Text(odd), Table("t", odd, [{odd: odd, "n": 1}])])])
    for page in (html.to_html(report), markdown.to_markdown(report, Path("."))):
        assert "\u202e" not in page and "\x1b" not in page and "hunter2" not in page
        page.encode()
        assert "u202eb" in page.replace("\\\\", "")


def test_verdict_cards_count_every_claim():
    """Five verdicts; those a reader asks for stand there even when no claim has them."""
    page = minimal(Cards([Card(2, "reproduced"), Card(0, "not reproduced"), Card(1, "unfinished")]))
    assert [li["class"] for li in Page(page).all("li") if li.get("class")] == ["yes", "no none", "open"]
    assert "<strong>2</strong> reproduced" in page
    text = "\n".join(markdown.blocks_lines([Cards([Card(2, "reproduced"), Card(1, "partly")])], Path(".")))
    assert text.strip() == "**2** reproduced · **1** partly"


def test_claims_of_papers_and_our_own_stand_in_two_tables(tmp_path):
    for by, name in (("paper", "toy/theirs"), ("permlab", "toy/ours"), ("permlab", "toy/wrong")):
        rule = "mean(a) > 1" if name == "toy/wrong" else "mean(a) > 0"
        write_run(tmp_path, "toy", 0, {"a": 1.0}, experiment={"name": name, "claim_by": by, "checks": [rule]})
    report = build(collect([str(tmp_path)]), Output(tmp_path / "r")).report
    blocks = report.sections[0].blocks
    found = {block.name: {row["experiment"]: row["verdict"] for row in block.rows} for block in blocks[1:5:3]}
    assert found == {
        "paper_against_ours": {"toy/theirs": "reproduced"},
        "own_claims": {"toy/ours": "holds", "toy/wrong": "does not hold"},
    }
    assert [card.label for card in blocks[3].cards] == ["holds", "partly", "does not hold"]
    page = Page(html.to_html(report))
    assert [li["class"] for li in page.all("li") if li.get("class")][4:7] == ["yes", "partly none", "no"]


def test_experiments_without_runs_are_folded_away(tmp_path):
    write_run(tmp_path, "toy", 0, {"a": 1.0}, experiment={"name": "toy/here", "checks": ["a > 0"]})
    report = build(
        collect([str(tmp_path)]), Output(tmp_path / "r"), experiments=["toy/here", "toy/one", "toy/two"]
    ).report
    (folded,) = [block for block in report.sections[0].blocks if isinstance(block, Details)]
    assert folded == Details("2 shipped experiments without runs here", [Items(["toy/one", "toy/two"])])
    page = html.to_html(report)
    assert re.search(
        r"<details><summary>2 shipped experiments .*?<ul class=\"items\"><li>toy/<wbr>one</li>", page, re.S
    )
    assert "- toy/one" in markdown.to_markdown(report, tmp_path / "r")


def test_a_page_reads_itself_again_only_while_it_is_rewritten():
    report = Report("t", "s", [])
    assert "http-equiv" in html.to_html(report) and "refresh" not in html.to_html(report).partition("<style>")[0]
    report.refresh = 7
    (tag,) = [m for m in Page(html.to_html(report)).all("meta") if m.get("http-equiv") == "refresh"]
    assert tag["content"] == "7"
    assert "reads itself again every 7 s" in html.to_html(report)


def test_one_of_a_thing_is_singular(tmp_path):
    write_run(tmp_path, "toy", 0, {"a": 1.0}, experiment={"name": "toy/here", "checks": ["mean(a) > 0"]})
    report = build(collect([str(tmp_path)]), Output(tmp_path / "r"), experiments=["toy/here", "toy/one"]).report
    page = html.to_html(report).partition("</style>")[2].partition("<script>")[0]
    assert "1 run (1 done)" in page and "(1 seed)" in page and "1 shipped experiment without" in page
    nouns = "run|seed|pair|job|row|experiment|configuration|key|line|core|question"
    assert re.findall(rf"(?<![\d.,])1 (?:more |shipped )?(?:{nouns})s\b", page) == []


def test_widths_of_columns_are_those_of_the_claims_and_of_no_other_table():
    from permlab.reports.build import CHECK_COLUMNS, CLAIM_COLUMNS

    css = (Path(html.__file__).parent / "assets" / "page.css").read_text()
    wide = re.findall(r'\.whole td\[data-heading\^="([^"]+)"\] { width', css)
    assert len(wide) == 2
    for start in wide:
        assert len([heading for heading in CLAIM_COLUMNS.values() if heading.startswith(start)]) == 1
        assert not [heading for heading in CHECK_COLUMNS.values() if heading.startswith(start)]
