"""report.html in a real browser, without a network."""

import re

import pytest

from tests.browser.conftest import browser  # noqa: F401  (a fixture)


@pytest.fixture(scope="module", params=["light", "dark"])
def opened(request, browser, made):  # noqa: F811
    """The page and all that it asked for."""
    context = browser.new_context(offline=True, color_scheme=request.param, viewport={"width": 1280, "height": 900})
    page, asked = context.new_page(), []
    page.on("request", lambda one: asked.append(one.url))
    page.goto((made[1].path / "report.html").as_uri())
    yield request.param, page, asked
    context.close()


def test_nothing_is_loaded_from_anywhere_else_and_every_picture_is_there_with_words(opened, made):
    _, page, asked = opened
    assert [url for url in asked if not url.startswith("data:")] == [(made[1].path / "report.html").as_uri()]
    pictures = page.evaluate(
        "[...document.images].filter(i => i.src.startsWith('data:')).map(i => [i.complete && i.naturalWidth > 0, i.alt])"
    )
    assert len(pictures) == 2 and all(loaded for loaded, _ in pictures)
    assert [alt for _, alt in pictures] == ["A line that rises from one to two.", "many: 3 (1 to 8)\ndrawn 3"]
    assert page.locator("script, iframe").count() == 0 and page.get_by_text("kept", exact=True).count() == 1


def test_it_reads_in_the_readers_colours(opened):
    scheme, page, _ = opened
    back, text = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) < 380 for colour in (back, text)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])


def test_the_header_says_what_and_where_and_links_lead_to_files_that_are_there(opened, made):
    _, page, _ = opened
    header = page.locator("header").inner_text()
    for words in (
        "A try",
        "Complete: every cell ran",
        "shows.ipynb",
        "host CPU",
        "kvmlab 0",
        "seconds = 2",
        "others took at most",
        "bad of cell 9",
    ):
        assert words in header
    links = page.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    inside = [link for link in links if not link.startswith(("https://example.org", "#"))]
    assert "data/03_cpus.csv" in inside and all((made[1].path / link).is_file() for link in inside)


def test_code_is_visible_and_text_that_looks_like_html_is_text(opened):
    _, page, _ = opened
    assert page.get_by_text("cpus = host.cpus()").first.is_visible() and page.get_by_text("<b>not bold</b>").count() >= 1


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_page(opened, width):
    _, page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
