"""The page in headless Chromium: no error, no request, links, sorting, enlarging, colours, a phone, a printer."""

from __future__ import annotations

import devtools
import pytest

from permlab.tables import plain

pytestmark = [
    pytest.mark.skipif(devtools.find() is None, reason="needs Chromium (apt-get install chromium)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def page(sample):
    return sample.folder / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with devtools.Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def tab(browser, page):
    """The page, freshly loaded on a desk; nothing may have been complained about in the end."""
    browser.size(1280, 900)
    browser.scheme("light")
    browser.open(page)
    browser.evaluate("localStorage.clear()")
    browser.open(page)
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if url != page.resolve().as_uri()] == []


SORTING = "document.querySelector('table[id$=sorting]')"


def column(tab, number):
    return tab.evaluate(f"Array.from({SORTING}.tBodies[0].rows).map(r => r.cells[{number}].textContent)")


def test_no_error_no_request_and_no_script_of_a_run(tab, sample):
    assert tab.evaluate("window.evil") is None
    assert "<script>" in tab.evaluate("document.title")
    assert sample.evil in tab.evaluate("document.body.textContent")
    assert tab.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert tab.evaluate("Array.from(document.images).filter(i => i.src && i.naturalWidth === 0).length") == 0
    assert tab.evaluate("Array.from(document.images).filter(i => i.src).length") >= 10


def test_the_page_itself_forbids_requests(browser, page):
    browser.open(page)
    blocked = browser.evaluate(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective));"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; setTimeout(() => done('allowed'), 3000); })"
    )
    assert blocked.startswith("img-src")
    browser.evaluate("(() => { const s = document.createElement('script'); s.text = 'window.evil = 2';"
                     " document.body.appendChild(s); })()")  # fmt: skip
    assert browser.evaluate("window.evil") is None


def test_index_links_lead_to_their_sections(tab):
    links = tab.evaluate("Array.from(document.querySelectorAll('nav a')).map(a => a.hash)")
    assert len(links) > 12 and links[0] == "#paper-against-ours"
    for link in links:
        top = tab.evaluate(
            f"(() => {{ document.documentElement.style.scrollBehavior = 'auto';"
            f"document.querySelector('nav a[href=\"{link}\"]').click();"
            f"return document.querySelector('{link}').getBoundingClientRect().top; }})()"
        )
        at_end = tab.evaluate("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        assert at_end or -5 <= top <= 60, link
    assert tab.evaluate("location.hash") == links[-1]


def test_tables_sort_by_value_with_a_click(tab, sample):
    click = f"{SORTING}.tHead.rows[0].cells[1].querySelector('button').click()"
    tab.evaluate(click)
    shown = [plain(value) for value in sorted(sample.numbers)]
    assert column(tab, 1) == shown
    assert tab.evaluate(f"{SORTING}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "ascending"
    tab.evaluate(click)
    assert column(tab, 1) == shown[::-1]
    assert tab.evaluate(f"{SORTING}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "descending"
    assert tab.evaluate(f"{SORTING}.tHead.rows[0].cells[0].getAttribute('aria-sort')") == "none"


def test_tables_sort_with_the_keyboard_and_empty_cells_stay_last(tab):
    tab.evaluate(f"{SORTING}.tHead.rows[0].cells[2].querySelector('button').focus()")
    tab.press("Enter", 13, "\r")
    assert column(tab, 2) == ["0", "1", "3", "4", "5", "6", ""]
    tab.press("Enter", 13, "\r")
    assert column(tab, 2) == ["6", "5", "4", "3", "1", "0", ""]


def test_figures_enlarge_and_escape_closes(tab):
    tab.evaluate("document.querySelector('.zoom').focus()")
    tab.press("Enter", 13, "\r")
    assert tab.evaluate("document.getElementById('viewer').open")
    wide = tab.evaluate("document.querySelector('#viewer img').getBoundingClientRect().width")
    assert wide > 900
    assert tab.evaluate("document.querySelector('#viewer img').alt.length") > 10
    tab.press("Escape", 27)
    assert not tab.evaluate("document.getElementById('viewer').open")
    assert tab.evaluate("document.activeElement.className") == "zoom"


def colours(tab):
    return tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")


def test_light_and_dark_by_system_and_by_button(tab, page):
    light = colours(tab)
    tab.scheme("dark")
    dark = colours(tab)
    assert light[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(21, 24, 28)" and light[1] != dark[1]
    button = "document.getElementById('theme')"
    assert tab.evaluate(f"{button}.getAttribute('aria-pressed')") == "true"
    tab.evaluate(f"{button}.click()")
    assert colours(tab) == light and tab.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    tab.scheme("light")
    tab.evaluate(f"{button}.click()")
    assert colours(tab) == dark
    tab.open(page)
    assert colours(tab) == dark, "the choice is remembered"


def contrast(first, second):
    def luminance(text):
        parts = [float(v) / 255 for v in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    one, two = sorted((luminance(first), luminance(second)))
    return (two + 0.05) / (one + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(tab, scheme):
    tab.scheme(scheme)
    back = colours(tab)[0]
    for selector in ("body", "nav a", "header p", "figcaption", ".verdict", ".note, figcaption", "td li + li"):
        text = tab.evaluate(f"(e => e ? getComputedStyle(e).color : null)(document.querySelector({selector!r}))")
        assert text is None or contrast(text, back) >= 4.5, selector


@pytest.mark.parametrize("width", [390, 320, 768])
def test_no_horizontal_scrolling_on_a_phone(tab, width):
    tab.size(width, 844, mobile=True)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("innerWidth") == width
    wide = tab.evaluate(
        "Array.from(document.querySelectorAll('main *')).filter(e => !e.closest('.scroll') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
    )
    assert wide == []


@pytest.mark.parametrize("width", [320, 390, 640, 768, 900, 1024, 1100, 1280, 1600])
def test_claims_and_rules_are_never_cut_off(tab, width):
    tab.size(width, 900, mobile=width < 500)
    boxes = tab.evaluate(
        "Array.from(document.querySelectorAll('.scroll.whole')).map(e => [e.querySelector('table').id,"
        " e.scrollWidth - e.clientWidth, Math.max(...Array.from(e.querySelectorAll('td, th:not(thead th)')).map("
        "c => c.scrollWidth - c.clientWidth))])"
    )
    assert [name for name, _, _ in boxes] == ["table-paper_against_ours", "table-own_claims", "table-checks"]
    assert all(box <= 0 and cell <= 1 for _, box, cell in boxes), boxes
    if width >= 1280:
        narrowest = tab.evaluate(
            "Math.min(...Array.from(document.querySelectorAll('.whole td.verdict')).map(c => c.clientWidth))"
        )
        assert narrowest >= 60, "words of a verdict are not broken"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_stand_on_the_ground_of_the_page(tab, tmp_path, scheme):
    """The corner of a drawing has the colour of the page, and something in it stands out."""
    from PIL import Image

    tab.scheme(scheme)
    tab.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    tab.evaluate("document.querySelector('figure').scrollIntoView({block: 'center'})")
    box = tab.evaluate(
        "(r => [r.left, r.top, r.right, r.bottom])(document.querySelector('.zoom img').getBoundingClientRect())"
    )
    tab.screenshot(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        shown = image.convert("RGB").crop(tuple(round(value) for value in box))
    ground = tuple(int(part) for part in colours(tab)[0][4:-1].split(","))
    corner = shown.getpixel((3, 3))
    assert max(abs(a - b) for a, b in zip(corner, ground)) <= 4, (corner, ground)
    levels = [sum(pixel) / 3 for _, pixel in shown.getcolors(1 << 24)]
    assert max(abs(level - sum(ground) / 3) for level in levels) > 150


def test_a_watched_page_stays_where_it_was(browser, sample, tmp_path):
    page = tmp_path / "watched.html"
    page.write_text(sample.page.replace("<title>", '<meta http-equiv="refresh" content="3600"><title>'))
    browser.size(1280, 900)
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details')[1].open = true")
    browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'; window.scrollTo(0, 1500)")
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('details')[1].open")
    assert not browser.evaluate("document.querySelectorAll('details')[0].open")
    assert abs(browser.evaluate("window.scrollY") - 1500) < 60


def test_print_hides_what_cannot_be_used_on_paper(tab):
    tab.scheme("dark", media="print")
    assert colours(tab)[0] == "rgb(255, 255, 255)"
    shown = "e => getComputedStyle(document.querySelector(e)).display"
    assert tab.evaluate(f"['nav', '#theme'].map({shown})") == ["none", "none"]
    assert tab.evaluate("getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    pdf = tab.call("Page.printToPDF", printBackground=False)["data"]
    assert len(pdf) > 10_000


def test_screenshots_are_not_empty(tab, tmp_path):
    from PIL import Image

    for name, size in (("desk", (1280, 900)), ("phone", (390, 844))):
        tab.size(*size, mobile=name == "phone")
        tab.screenshot(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == size
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
