"""The site: this README, the executed notebooks, the pages of docs/, the API and the data dictionary, as HTML that opens offline.

`./lab site` runs it. It needs no network, and takes as long as the notebooks do; `--no-run` leaves them as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import dictionary
import lessons
from sphinx.cmd.build import build_main

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent


def main(arguments: list[str] | None = None) -> int:
    """0 when every notebook ran to its end and Sphinx had nothing to say; the site stands in any case that Sphinx survives."""
    parser = argparse.ArgumentParser(prog="./lab site", description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, default=REPOSITORY / "out" / "site", metavar="FOLDER", help="by default out/site")
    parser.add_argument("--no-run", action="store_true", help="do not execute the notebooks: pages without results")
    options = parser.parse_args(arguments)
    refuse_others_folder(options.out)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kvmlab-site-") as work:
        source, made = Path(work, "source"), Path(work, "html")
        lay_out(source)
        failed = [] if options.no_run else lessons.run_all(source / "notebooks")
        status = build_main(["-q", "-W", "--keep-going", "-b", "html", "-d", f"{work}/doctrees", str(source), str(made)])
        if (made / "index.html").exists():
            shutil.rmtree(options.out, ignore_errors=True)
            shutil.copytree(made, options.out)
    print(f"{options.out / 'index.html'}: {time.monotonic() - started:.0f} s.")
    for words in failed:
        print(f"A cell failed: {words}", file=sys.stderr)
    return 1 if failed or status else 0


def refuse_others_folder(out: Path) -> None:
    """What is replaced must have been a site."""
    if out.exists() and not (out / ".buildinfo").exists() and (not out.is_dir() or any(out.iterdir())):
        sys.exit(f"{out} is there and holds no site: name another folder, or remove it.")


def lay_out(source: Path) -> None:
    """All that the site is made of, in the folders of the repository, so that every link leads where it leads there."""
    source.mkdir()
    shutil.copytree(DOCS, source / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (source / "docs" / "index.md").rename(source / "index.md")
    for name in ("README.md", "CONTRIBUTING.md", "LICENSE"):
        shutil.copy2(REPOSITORY / name, source)
    no_page = shutil.ignore_patterns("solutions", ".*", "*.py", "__pycache__")
    shutil.copytree(REPOSITORY / "notebooks", source / "notebooks", ignore=no_page)
    for path in (source / "notebooks").rglob("*.ipynb"):
        lessons.name_language(path)
    for path in (*source.glob("docs/**/*.md"), *source.glob("notebooks/**/*.md")):
        path.write_text(path.read_text(encoding="utf-8").replace("../README.md", "../index.md"), encoding="utf-8")  # which holds it
    shutil.copy2(DOCS / "conf.py", source)
    (source / "docs" / "dictionary.md").write_text(dictionary.page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
