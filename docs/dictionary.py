"""The data dictionary: a page from kvmlab/columns.txt, one table a kind of frame, and the calls that return it."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator

import kvmlab
from kvmlab import columns, course, measure, models, report, widgets
from kvmlab.guest.guest import Guest
from kvmlab.guest.pinning import Plan

CLASSES = {kvmlab.Host: "kvmlab", kvmlab.Lab: "kvmlab", Guest: "kvmlab.guest.guest", Plan: "kvmlab.guest.pinning"}
CLASSES |= {measure.Sampler: "kvmlab.measure", widgets.PinCanvas: "kvmlab.widgets"}

ATTRIBUTES = {"moves": "guest.migration.Move", "migration": "guest.migration.Move", "loops": "guest.isolated.Booted"}  # frames of theirs

HEAD = """# The data dictionary

Every frame of kvmlab, in long form: one row an observation. A column has the same dtype in an empty frame as in a full one. What a
machine does not tell is `NA`, never 0, and `frame.attrs["unavailable"]` says why; `frame.attrs["kind"]` is the kind. Units stand in the
names. This page is made of `kvmlab/columns.txt`, as the docstrings are.

"""


def calls() -> dict[str, list[str]]:
    """Which public calls return a frame of each kind, as Sphinx names them."""
    found = defaultdict(list)
    for name, function in _public():
        if hasattr(function, "frame_kind"):
            found[function.frame_kind].append(name)
    for kind, name in ATTRIBUTES.items():
        found[kind].append(f"kvmlab.{name}")
    return found


def _public() -> Iterator[tuple[str, object]]:
    for owner, module in CLASSES.items():
        for name in dir(owner):
            if not name.startswith("_") and callable(function := inspect.getattr_static(owner, name)):
                yield f"{module}.{owner.__name__}.{name}", function
    homes = {"kvmlab.measure": measure, "kvmlab.guest.models": models, "kvmlab.course": course, "kvmlab.report": report}
    for home, module in homes.items():
        for name in module.__all__:
            yield f"{home}.{name}", getattr(module, name)


def page() -> str:
    """The page, as Markdown."""
    found = calls()
    return HEAD + "\n".join(_section(kind, found[kind]) for kind in sorted(columns.FRAMES))


def _section(kind: str, names: list[str]) -> str:
    refs = ", ".join(f"{{any}}`{_short(name)} <{name}>`" for name in names)
    lines = [f"(frame-{kind})=", f"## {kind}", "", f"From {refs}." if refs else "", ""]
    lines += ["| column | dtype | unit | meaning | source |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {_cell(c.meaning)} | {_cell(c.source)} |" for c in columns.FRAMES[kind]]
    return "\n".join([*lines, ""])


def _short(name: str) -> str:
    """As a reader types it."""
    *_, owner, call = name.split(".")
    return f"{owner}.{call}" if call[0].islower() else call


def _cell(words: str) -> str:
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>|$" else c for c in words)
