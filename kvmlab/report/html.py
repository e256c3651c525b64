"""report.html: one file without scripts that needs nothing else, in the reader's light or dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote, urlsplit

from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from kvmlab.report import words

_STYLE = Path(__file__).with_name("report.css")
_NOTHING_FROM_OUTSIDE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DANGEROUS = ("script", "iframe", "object", "embed", "base", "meta", "link")


def page(notebook: NotebookNode, environment: Mapping, cwd: Path) -> str:
    """The whole page. Pictures that the notebook's text shows are taken from its own folder, `cwd`."""
    exporter = HTMLExporter(template_name="basic", embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(cwd)}})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_OUTSIDE}">
<title>{escape(environment["title"])}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}
{_code("default")}
@media screen and (prefers-color-scheme: dark) {{
{_code("github-dark")}
}}
</style>
</head>
<body>
<main>
{_header(environment)}
{_static(body)}
</main>
</body>
</html>
"""


def _code(style: str) -> str:
    return HtmlFormatter(style=style).get_style_defs(".highlight")


def _static(body: str) -> str:
    """Nothing that runs or loads, no links to what is not in the folder, and wide tables in a box of their own."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.find_all(_DANGEROUS):
        element.decompose()
    for anchor in soup.select("a.anchor-link"):
        anchor.decompose()
    for picture in soup.find_all("img"):
        if not picture.get("src", "").startswith("data:"):
            picture.replace_with(f"[picture left out, it is not part of this report: {picture.get('src', '')}]")
    for link in soup.find_all("a", href=True):
        if not urlsplit(link["href"]).scheme and not link["href"].startswith("#"):
            link.name, link.attrs = "span", {}
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "wide", "tabindex": "0", "role": "region", "aria-label": "table"}))
    return str(soup)


def _header(environment: Mapping) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in words.facts(environment))
    return f"""<header>
<h1>Report: {escape(environment["title"])}</h1>
<p class="status {escape(environment["status"])}">{escape(words.status(environment))}</p>
<dl>{facts}</dl>
{"".join(_files(environment))}
</header>"""


def _files(environment: Mapping) -> Iterator[str]:
    """What lies beside this page, by names relative to it."""
    yield '<details open><summary>Files of this report</summary><ul class="files">'
    beside = {
        "notebook.ipynb": "the notebook as it was run",
        "environment.json": "versions, host, parameters and noise, for programs",
        "host.tar.xz": "a recording of this host: Host.open('host.tar.xz')",
        "ro-crate-metadata.json": "what all these files are (RO-Crate)",
    }
    for name, what in beside.items():
        yield f'<li><a href="{name}">{name}</a>: {what}</li>'
    for file in environment["captured"]:
        href = quote(f"data/{file['file']}")
        said = f"{words.count(file['rows'], 'row')} of {file['kind']}, {file['name']} as cell {file['cell']} left it"
        yield f'<li><a href="{href}">data/{escape(file["file"])}</a>: {escape(said)} (<a href="{href}-metadata.json">its columns</a>)</li>'
    yield "</ul></details>"
