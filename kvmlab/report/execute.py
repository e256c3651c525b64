"""Running a notebook in a kernel of its own, cell by cell, so that it leaves a whole report and no guest, however it goes.

After a cell that fails the next ones are not run, as papermill does it, but for the last one: that cleans up.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from kvmlab.errors import ReportError
from kvmlab.report import static

SEED = 0  # of Python's hashes, random and numpy; the default of all that kvmlab.measure draws, too
_START = "__import__('kvmlab.report.capture', fromlist=['start']).start(get_ipython(), {folder!r}, {seed})"
_PATIENCE_S = 60
_QUIET = "--IPKernelApp.log_level=40"  # of warnings: it listens on this machine only, but unencrypted, as every notebook's kernel
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_BROKEN = (CellExecutionError, CellTimeoutError, DeadKernelError)


@dataclass
class Outcome:
    """How it went: `failed` says what failed and where, `not_captured` why there is no data."""

    took_s: float = 0.0
    failed: dict | None = None
    not_captured: str | None = None


def execute(notebook: NotebookNode, cwd: Path, folder: Path, tell: Callable[[float, str], None]) -> Outcome:
    """Run it in place; frames go to `folder`. The first Ctrl-C ends the running cell, and then the last one cleans up.

    Raises
    ------
    ReportError
        When no kernel starts.
    KeyboardInterrupt
        For a second Ctrl-C; the kernel is gone then, too.
    """
    return _Run(notebook, folder, tell).whole(cwd)


class _Run:
    def __init__(self, notebook: NotebookNode, folder: Path, tell: Callable[[float, str], None]):
        self._notebook, self._folder, self._tell = notebook, folder, tell
        told = {"timeout": None, "startup_timeout": _PATIENCE_S, "store_widget_state": True, "extra_arguments": [_QUIET]}
        self._client = NotebookClient(notebook, **told)
        self._code = [n for n, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
        self._interrupted, self._abandoned = "", False
        self.outcome = Outcome()

    def whole(self, cwd: Path) -> Outcome:
        with self._kernel(cwd), self._ctrl_c():
            begin = time.monotonic()
            self._ask_language()
            self.outcome.not_captured = self._start_capture()
            if index := self._run_all():
                self._clean_up(index)
            self.outcome.took_s = time.monotonic() - begin
        if self._abandoned:
            raise KeyboardInterrupt
        for cell in self._notebook.cells:  # not before: the kernel may change what an earlier cell shows
            if cell.cell_type == "code":
                static.widgets(cell, self._client.widget_state)
        return self.outcome

    @contextmanager
    def _kernel(self, cwd: Path) -> Iterator[None]:
        """It begins in the notebook's folder; however it is left, its process is gone."""
        client = self._client
        client.km = client.create_kernel_manager()
        try:
            try:
                client.start_new_kernel(cwd=str(cwd), env=os.environ | {"PYTHONHASHSEED": str(SEED)})
                client.start_new_kernel_client()
            except Exception as error:
                raise ReportError(f"The notebook's kernel {client.kernel_name or 'python3'!r} does not start: {error}") from error
            self._group = getattr(client.km.provisioner, "pgid", None)
            yield
        finally:
            if client.km is not None and client.km.has_kernel:
                client._cleanup_kernel()

    # ---- Ctrl-C

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        alike = [one for one in _ENDS if signal.getsignal(one) == signal.default_int_handler]
        before = {one: signal.signal(one, self._interrupt) for one in [signal.SIGINT, *alike]}
        try:
            yield
        finally:
            for one, how in before.items():
                signal.signal(one, how)

    def _interrupt(self, number: int, _frame: object) -> None:
        how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._abandoned, self._interrupted = bool(self._interrupted), how
        if self._group:  # the kernel has a group of its own, and heard nothing yet
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL if self._abandoned else signal.SIGINT)

    # ---- cells

    def _ask_language(self) -> None:
        """As Jupyter does, for whoever colours the code."""
        with suppress(Empty, DeadKernelError, KeyError):
            said = self._client.wait_for_reply(self._client.kc.kernel_info())["content"]
            self._notebook.metadata["language_info"] = said["language_info"]

    def _start_capture(self) -> str | None:
        """Silently, so that it has no number and leaves no name; why not, where it does not work."""
        client = self._client
        try:
            message = client.kc.execute(_START.format(folder=str(self._folder), seed=SEED), silent=True)
            said = client.wait_for_reply(message)["content"]
        except (Empty, DeadKernelError) as error:
            return f"the kernel did not answer: {error}"
        return None if said["status"] == "ok" else f"the notebook's kernel cannot: {said['ename']}: {said['evalue']}"

    def _run_all(self) -> int | None:
        """The index of the cell that is the last that ran, where not all of them did."""
        for done, index in enumerate(self._code):
            self._tell(done / len(self._code), f"cell {done + 1} of {len(self._code)}: {_title(self._notebook.cells[index])}")
            error = self._run(index)
            if error or self._interrupted:
                self.outcome.failed = self._told(index, error)
                return index
        return None

    def _run(self, index: int) -> Exception | None:
        cell = self._notebook.cells[index]
        injected = "injected-parameters" in cell.metadata.get("tags", [])
        try:
            self._client.execute_cell(cell, index, store_history=not injected)
        except _BROKEN as error:
            return error
        finally:
            if injected:
                cell.execution_count = None  # so that numbers are those of the notebook without it
        return None

    def _told(self, index: int, error: Exception | None) -> dict:
        cell = self._notebook.cells[index]
        number = cell.execution_count
        where = {"cell": number, "source": cell.source}
        if isinstance(error, DeadKernelError):
            return where | {"cell": number or self._number(index), "name": "DeadKernelError", "error": "the notebook's kernel died"}
        if self._interrupted:
            return where | {"name": "KeyboardInterrupt", "error": f"interrupted with {self._interrupted}"}
        return where | {
            "name": getattr(error, "ename", type(error).__name__),
            "error": _COLOURS.sub("", getattr(error, "evalue", str(error))),
        }

    def _number(self, index: int) -> int:
        """What a cell that never answered would have been called."""
        before = (self._notebook.cells[n].execution_count or 0 for n in self._code if n < index)
        return 1 + max(before, default=0)

    def _clean_up(self, index: int) -> None:
        """The last cell, where it did not run yet: notebooks end with what takes everything back."""
        last, failed = self._code[-1], self.outcome.failed
        if index == last:
            return
        if failed["name"] == "DeadKernelError":
            failed["clean_up"] = "could not be run; libvirt ends the guests of a process that died"
            return
        error = self._run(last)
        failed["clean_up"] = f"failed, {getattr(error, 'ename', type(error).__name__)}" if error else "ran"


def _title(cell: NotebookNode) -> str:
    """Its first line, for a line of a terminal."""
    line = cell.source.strip().splitlines()[0]
    return line if len(line) <= 60 else f"{line[:57]}..."
