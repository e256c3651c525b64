"""A line of text that says how far a measurement has come, where somebody may be looking: a terminal or a notebook."""

from __future__ import annotations

import sys
import time

_EVERY_S = 0.2
_WIDTH = 30


class Progress:
    """Shown for what takes longer than 2 s, or as `wanted` says; gone again when it is done.

    It is plain text on stderr, or an output of the notebook's cell, for nothing here may need widgets.
    """

    def __init__(self, seconds: float, wanted: bool | None = None):
        self._show = _writer() if (seconds > 2 if wanted is None else wanted) else None
        self._next = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exception) -> None:
        if self._show:
            self._show("")

    def tell(self, share: float, words: str) -> None:
        """So much of it, from 0 to 1, is done."""
        if self._show and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            done = round(_WIDTH * min(1, share))
            self._show(f"[{'#' * done}{'.' * (_WIDTH - done)}] {words}")


def _writer():
    """What shows a text in place of the last one; None where nobody looks."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: handle.update({"text/plain": text}, raw=True)
    if sys.stderr is not None and sys.stderr.isatty():
        return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    return None
