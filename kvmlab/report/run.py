"""run: a notebook with parameters, run anew, as one folder that holds all of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab import __version__
from kvmlab.errors import KvmlabError, ReportError
from kvmlab.report import words

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from kvmlab.report.execute import Outcome


@dataclass(frozen=True)
class Report:
    """A report that was made: its folder, and what its environment.json says."""

    path: Path
    environment: dict

    @property
    def status(self) -> str:
        """ "complete" or "failed"."""
        return self.environment["status"]

    def __str__(self) -> str:
        told = self.environment
        ours, frames = told["took_s"] - told["notebook_s"], words.count(len(told["captured"]), "frame")
        lines = [
            words.status(told),
            f"Report: {self.path} ({frames}; it took {told['took_s']:.0f} s, of which {ours:.1f} s are the report's own).",
            *(f"Missing: {what}." for what in told["missing"]),
            f"Read it:    {(self.path / 'report.html').as_uri()}",
            f"Compare it: kvmlab report compare {self.path} OTHER",
        ]
        return "\n".join(lines)

    __repr__ = __str__


def run(
    notebook: str | os.PathLike, out: str | os.PathLike, parameters: Mapping[str, object] | None = None, progress: bool | None = None
) -> Report:
    """Run a notebook with parameters, in a kernel of its own and in its own folder, and write a report into a new one.

    That holds report.html (opens offline), notebook.ipynb as it was run, data/ with each frame of kvmlab's that a cell bound to a
    name (`read` reads one), environment.json, host.tar.xz and ro-crate-metadata.json.

    When a cell fails, the next ones are not run, but for the last one, which cleans up; the report says so, and its status is
    "failed". Ctrl-C does the same with the cell that runs; a second one leaves no report. Python's hashes, `random` and numpy begin with
    a fixed seed, as all random orders of ``measure`` do.

    Parameters
    ----------
    notebook : str
        Path of an .ipynb file.
    out : str
        A folder that is not there yet, or is empty.
    parameters : mapping, optional
        For what the notebook's cell with the tag "parameters" sets.
    progress : bool, optional
        Show how far it has come; by default in a terminal or notebook.

    Returns
    -------
    Report
        ``.path``, ``.status``, ``.environment``; ``str()`` says how it went.

    Raises
    ------
    ReportError
        Before anything is run for a notebook, a parameter or a folder that cannot be; later when the report cannot be written.

    Examples
    --------
    >>> made = report.run("notebooks/07_vcpu_pinning.ipynb", "out", {"vcpus": 4})           # doctest: +SKIP
    >>> made.status                                                                         # doctest: +SKIP
    'complete'
    """
    from kvmlab.report import parameters as known

    begin, source = time.monotonic(), Path(notebook)
    book = known.load(source)
    own, given = known.own(book), dict(parameters or {})
    book = known.given(book, source.name, given)
    told = {"notebook": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "title": _title(book, source.stem)}
    with _folder(Path(out).absolute()) as (folder, place), _progress(progress) as tell:
        environment = _made(book, source, folder, told | {"parameters": given, "own_parameters": own}, tell)
        environment["took_s"] = round(time.monotonic() - begin, 2)
        _write(folder / "environment.json", _json(environment))
    return Report(place[0], environment)


@contextmanager
def _progress(wanted: bool | None) -> Iterator[Callable[[float, str], None]]:
    try:
        from kvmlab.measure.progress import Progress
    except KvmlabError:  # measure needs libvirt; a report of what a notebook says then does not
        yield lambda *_told: None
        return
    with Progress(float("inf"), wanted) as bar:
        yield bar.tell


def _title(book: NotebookNode, name: str) -> str:
    """The notebook's first heading."""
    found = (re.search(r"^#\s+(.+)$", cell.source, re.M) for cell in book.cells if cell.cell_type == "markdown")
    return next((match[1].strip() for match in found if match), name)


def _made(book: NotebookNode, source: Path, folder: Path, told: dict, tell: Callable[[float, str], None]) -> dict:
    """Run it and write all files but environment.json, which is the return value."""
    import nbformat

    from kvmlab.host.host import Host
    from kvmlab.report import crate, execute, html, provenance

    missing: list[str] = []
    tell(0, "looking at the host")
    environment = told | provenance.about(host := Host())
    host.record(folder / "host.tar.xz")
    before = _noise(missing)
    started = datetime.now(UTC)
    outcome = execute.execute(book, source.absolute().parent, folder, tell)
    ended = datetime.now(UTC)
    tell(1, "writing the report")
    environment["noise"] = {"before": before, "after": _noise(missing)}
    environment |= _of_the_run(outcome, started, ended) | _captured(folder, outcome, missing)
    environment["acceleration"]["measured"] = provenance.accel_of(environment["captured"])
    _write(folder / "notebook.ipynb", nbformat.writes(book))
    _write(folder / "report.html", html.page(book, environment, source.absolute().parent))
    _write(folder / "ro-crate-metadata.json", _json(crate.crate(environment)))
    return environment


def _noise(missing: list[str]) -> list[dict]:
    from kvmlab.report import provenance

    try:
        return provenance.noise()
    except (KvmlabError, OSError) as error:
        missing.append(f"the noise: {error}")
        return []


def _of_the_run(outcome: Outcome, started: datetime, ended: datetime) -> dict:
    from kvmlab.report.execute import SEED

    return {
        "made_by": f"kvmlab {__version__}",
        "status": "failed" if outcome.failed else "complete",
        "failed": outcome.failed,
        "started": started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "notebook_s": round(outcome.took_s, 2),
        "seed": SEED,
    }


def _captured(folder: Path, outcome: Outcome, missing: list[str]) -> dict:
    """What the kernel says that it saved, and what it could not save."""
    from kvmlab.report.capture import LIST

    found, path = [], folder / LIST
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            with suppress(ValueError):  # cut off, where the kernel was killed
                found.append(json.loads(line))
        path.unlink()
    if outcome.not_captured:
        missing.append(f"all data: {outcome.not_captured}")
    missing += [f"{one['name'] or 'data'} of cell {one['cell']}: {one['error']}" for one in found if "error" in one]
    captured = [one for one in found if "file" in one]
    return {"captured": captured, "missing": missing, "capture_s": round(sum(one.get("spent_s", 0) for one in found), 2)}


# ---- files


@contextmanager
def _folder(out: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A folder to write to, which becomes `out` as a whole at the end, or nothing; then where it is stands in the list."""
    place: list[Path] = []
    with _explained(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ReportError(f"{out} is there already, and reports overwrite nothing. {_free(out)} is free.")
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        with _explained(out):
            folder.chmod(0o755)
            (folder / "data").mkdir()
        yield folder, place
        with _explained(out):
            try:
                folder.rename(out)
            except OSError:  # somebody put something there meanwhile
                out = _free(out)
                folder.rename(out)
            place.append(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free(out: Path) -> Path:
    return next(path for n in range(2, 10_000) if not (path := out.with_name(f"{out.name}-{n}")).exists())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportError(f"{path}: the report cannot be written: {error.strerror or error}.") from error


def _write(path: Path, text: str) -> None:
    with _explained(path):
        path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
