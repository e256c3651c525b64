"""What a report says of itself in sentences; for its page, its crate and the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime

from kvmlab.wording import count


def status(environment: Mapping) -> str:
    """Whether the notebook ran through, and if not, where it failed and what was done about it."""
    failed = environment["failed"]
    if not failed:
        return f"Complete: every cell ran, in {environment['notebook_s']:.0f} s."
    first = f"Failed in cell {failed['cell']}: {failure(environment)}"
    if "clean_up" in failed:
        first = f"{first.rstrip('.')}. The cells after it were not run, but for the last one, which cleans up: that {failed['clean_up']}."
    return first


def failure(environment: Mapping) -> str:
    """Such as: ZeroDivisionError: division by zero."""
    failed = environment["failed"]
    if failed["name"] in ("KeyboardInterrupt", "DeadKernelError"):
        return f"{failed['error']}."
    return f"{failed['name']}: {failed['error']}".rstrip(": ")


def facts(environment: Mapping) -> Iterator[tuple[str, str]]:
    """The header's rows."""
    when = datetime.fromisoformat(environment["started"])
    yield "Notebook", environment["notebook"]
    yield "When", f"{when:%Y-%m-%d %H:%M:%S} UTC; the notebook took {environment['notebook_s']:.0f} s"
    yield "Host", host(environment)
    yield "Guests", guests(environment)
    yield "Versions", versions(environment["versions"])
    yield "Parameters", parameters(environment)
    yield "Noise", noise(environment["noise"])
    if environment["missing"]:
        yield "Missing", "; ".join(environment["missing"])


def host(environment: Mapping) -> str:
    return f"{environment['host']['model']}, {count(environment['host']['cpus_online'], 'host CPU')} online"


def guests(environment: Mapping) -> str:
    """What ran them, as the frames say it; else what would have."""
    by = environment["acceleration"]
    if by["measured"]:
        return f"ran on {' and '.join(name.upper() for name in by['measured'])}"
    return f"{by['lab_guests']}" + (f": {by['why']}" if by["why"] else "")


def versions(found: Mapping) -> str:
    names = {"kvmlab": "kvmlab", "Python": "Python", "kernel": "Linux", "QEMU": "QEMU", "libvirt": "libvirt"}
    return ", ".join(f"{shown} {found[name] or 'none'}" for name, shown in names.items())


def parameters(environment: Mapping) -> str:
    """Those that were given, and the notebook's own values of the others."""
    given, own = environment["parameters"], environment["own_parameters"]
    parts = [f"{name} = {value!r}{'' if name in given else ' (its own)'}" for name, value in (own | given).items()]
    return ", ".join(parts) or "none"


def noise(rows: Mapping) -> str:
    """How much others were there, before and after, at worst."""
    found = [words for when in ("before", "after") if (words := _noise(rows[when], when))]
    return "; ".join(found) or "not measured"


def _noise(rows: list[Mapping], when: str) -> str:
    others = [row for row in rows if row.get("others") is not None]
    if not others:
        return ""
    worst = max(others, key=lambda row: row["others"])
    pauses = [row["longest_s"] for row in rows if row.get("longest_s") is not None]
    longest = f", longest pause {1000 * max(pauses):.1f} ms" if pauses else ""
    return f"{when}, others took at most {100 * worst['others']:.0f} % of a CPU (CPU {worst['cpu']}){longest}"


def command(environment: Mapping) -> str:
    """What makes such a report again."""
    given = [word for name, value in environment["parameters"].items() for word in ("-p", f"{name}={value}")]
    return shlex.join(["kvmlab", "report", environment["notebook"], *given, "-o", "OUT"])
