"""The site: it builds without a word of complaint, opens without a network, and knows every public name and every column."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

import kvmlab
from kvmlab import columns
from tests.conftest import REPOSITORY, need

DOCS = REPOSITORY / "docs"
RESOURCES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data", "link": "href"}


@pytest.fixture(scope="module", autouse=True)
def modules():
    """docs/ is no package: its modules import each other as scripts do."""
    try:
        importlib.import_module("sphinx")
    except ImportError:
        need("no Sphinx: pip install -e .[docs]")
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "html"
    run = subprocess.run([sys.executable, DOCS / "build.py", "--no-run", "-o", out], cwd=out.parent, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return out


class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.ids = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if found.get("rel") not in ("canonical", "author", "copyright") and tag in RESOURCES:
            self.loads.append(found.get(RESOURCES[tag]) or "")


def test_no_page_loads_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for path in pages:
        loads = Page(path).loads
        assert loads and not [address for address in loads if re.match(r"(https?:)?//", address)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_the_home_page_is_the_readme_and_lists_all_pages(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "A lab and workbook about the CPU side of KVM" in home
    for notebook in (REPOSITORY / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.stem}.html" in home
    for page in ("where", "teaching", "jupyterhub", "troubleshooting", "dictionary", "api/index"):
        assert f"docs/{page}.html" in home
    assert not list(site.rglob("*solutions*.html"))


def test_every_public_name_has_its_place_in_the_api(site):
    ids = {place for path in (site / "docs/api").glob("*.html") for place in Page(path).ids}
    homes = ("measure", "plots", "widgets", "course", "report", "guest.models")
    names = [f"kvmlab.{home}.{name}" for home in homes for name in importlib.import_module(f"kvmlab.{home}").__all__]
    values = {"kvmlab.plots.PALETTE"}
    assert [name for name in names if name not in ids | values] == []
    modules = {"KvmlabError": "kvmlab.errors.KvmlabError", "models": "kvmlab.guest.models", "cpulist": "kvmlab.host.cpulist"}
    assert [
        name
        for name in kvmlab.__all__
        if not {f"kvmlab.{name}", f"module-kvmlab.{name}", modules.get(name), f"module-{modules.get(name)}"} & ids
    ] == []


def test_the_data_dictionary_has_every_frame_every_column_and_a_call_for_each(site):
    import dictionary

    page = (site / "docs/dictionary.html").read_text(encoding="utf-8")
    calls = dictionary.calls()
    for kind, described in columns.FRAMES.items():
        section = page.partition(f'id="frame-{kind.replace("_", "-")}"')[2].partition("<section")[0]
        assert calls[kind] and all(f"{name.split('.')[-1]}" in section for name in calls[kind]), kind
        assert all(f">{column.name}<" in section for column in described), kind


def quoted() -> list[str]:
    return re.findall(r"^### (?=.*`.*`)(.*)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_the_troubleshooting_page_quotes_is_what_kvmlab_says():
    theirs = (
        "Failed to connect socket to",
        "Failed to find user record",
        "No emulator found",
        "cannot set CPU affinity",
        "guest speed",
        "of native speed",
    )
    theirs += ("Permission denied", "Invalid argument", "No such file or directory", "CPU tuning is not available in session mode", "NA")
    said = "".join(spoken(path.read_text(encoding="utf-8")) for path in sorted(Path(kvmlab.__file__).parent.rglob("*.py")))
    assert len(quoted()) > 20
    for line in quoted():
        for part in re.findall(r"`([^`]*)`", line)[0].split("…"):
            words = part.strip(" ;:.()'")
            assert len(words) < 8 or words in said or any(other in words for other in theirs), part


def spoken(code: str) -> str:
    """Every string in it, with … for what an f-string fills in."""
    inside = {id(part) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            parts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            parts.append(node.value)
    return "\n".join([*parts, ""])


def test_search_and_pages_work_in_a_browser_without_a_network(site):
    from playwright.sync_api import sync_playwright

    if not shutil.which("chromium"):
        need("no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True, viewport={"width": 400, "height": 900}).new_page()
        wrong = []
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for name in ("index", "notebooks/07_vcpu_pinning", "docs/dictionary", "docs/api/lab"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than a phone"
        page.goto(f"{(site / 'search.html').as_uri()}?q=autoplan")
        page.locator("#search-results li a").first.wait_for(timeout=15_000)
        browser.close()
    assert wrong == []


CELLS = """
print("before")
---
1 / 0
---
from kvmlab.widgets import ask
ask("how many", 0, 10)
"""


def test_a_cell_that_fails_is_told_and_all_others_run(tmp_path):
    import lessons

    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---")]
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert lessons.run_all(tmp_path) == ["broken.ipynb, cell 2: ZeroDivisionError: division by zero"]
    first, warning, failed, asked = nbformat.read(path, as_version=4).cells
    assert first.outputs[0].text == "before\n" and "Not all of this notebook ran" in warning.source
    assert failed.outputs[0].ename == "ZeroDivisionError"
    assert "how many: 5" in json.dumps(asked.outputs) and "widget-view" not in json.dumps(asked.outputs)


def test_a_notebook_that_failed_makes_a_site_and_a_status(tmp_path, monkeypatch, capsys):
    import build

    def sphinx(arguments: list[str]) -> int:
        Path(arguments[-1]).mkdir()
        Path(arguments[-1], "index.html").write_text("here")
        return 0

    monkeypatch.setattr(build, "build_main", sphinx)
    monkeypatch.setattr(build.lessons, "run_all", lambda folder: ["a.ipynb, cell 2: KeyError"])
    assert build.main(["-o", str(tmp_path / "out")]) == 1
    assert (tmp_path / "out/index.html").read_text() == "here"
    assert "A cell failed: a.ipynb, cell 2: KeyError" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(SystemExit, match="holds no site"):
        build.main(["-o", str(tmp_path / "mine")])
    assert (tmp_path / "mine/thesis.txt").exists()
