"""Notebooks, executed for the site: from the first cell to the last, whatever fails in between."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from kvmlab.report import static

CELL_S = 120
_FOLDER = Path(__file__).parent.parent / "notebooks"  # they run where they are: "../tests/hosts" is from there
_QUIET = "--IPKernelApp.log_level=40"
_NOT_RUN = (
    "Not all of this notebook ran when the site was built. The cell that failed shows its error, and what follows may lack something."
)


def run_all(folder: Path) -> list[str]:
    """Execute the notebooks of a folder in place, one after the other, for they measure; which cells failed, and how."""
    failed = []
    for path in sorted(folder.rglob("*.ipynb")):
        started = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        found = run(path, _FOLDER / path.relative_to(folder).parent)
        print(f"{time.monotonic() - started:.0f} s{', FAILED' if found else ''}", flush=True)
        failed += [f"{path.name}, {words}" for words in found]
    return failed


def run(path: Path, cwd: Path) -> list[str]:
    """Execute one notebook in place; which of its cells failed, and how. Its widgets become what they show without JavaScript."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_S,
        interrupt_on_timeout=True,
        allow_errors=True,  # the last cell cleans up
        extra_arguments=[_QUIET],
        resources={"metadata": {"path": str(cwd)}},
    )
    failed = []
    try:
        client.execute()
    except DeadKernelError as error:
        failed.append(f"its kernel died: {error}")
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            failed += [f"cell {number}: {o.ename}: {o.evalue}".strip(": ") for o in cell.outputs if o.output_type == "error"]
            static.widgets(cell, client.widget_state)
            cell.outputs = [output for output in cell.outputs if output.get("data") != {"text/plain": ""}]  # a progress bar that is gone
    notebook.metadata.pop("widgets", None)
    if failed:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f"```{{warning}}\n{_NOT_RUN}\n```"))
    nbformat.write(notebook, path)
    return failed


def name_language(path: Path) -> None:
    """For the colours of a notebook that is not executed."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    nbformat.write(notebook, path)


def anchor(title: str) -> str:
    """What JupyterLab makes of a heading; links within the workbook are written for it."""
    return title.replace(" ", "-")
