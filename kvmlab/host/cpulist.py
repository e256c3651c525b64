"""CPU lists as Linux and libvirt write them: ``"0-3,8"`` is (0, 1, 2, 3, 8), and ``"0-3,^2"`` leaves 2 out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kvmlab.errors import CpuListError

HIGHEST_CPU = 65535  # far above the kernel's NR_CPUS (8192), low enough for any list to fit in memory

_PART = re.compile(r"(\^)?([0-9]+)(?:-([0-9]+))?", re.ASCII)


def parse(text: str) -> tuple[int, ...]:
    """The CPUs of a list, sorted; an empty text is an empty set, as in the kernel's files.

    Raises
    ------
    CpuListError
        For anything else than numbers, ranges and libvirt's ``^N`` separated by commas.

    Examples
    --------
    >>> parse("0-3,8,^2")
    (0, 1, 3, 8)
    """
    return tuple(sorted(as_written(text)))


def as_written(text: str) -> tuple[int, ...]:
    """The same CPUs in the order in which they are written, each once.

    >>> as_written("3,0-2,^1")
    (3, 0, 2)
    """
    cpus: dict[int, None] = {}
    if not text.strip():
        return ()
    for part in text.strip().split(","):
        excluded, first, last = _bounds(part.strip(), text)
        if excluded:
            cpus.pop(first, None)
        else:
            cpus |= dict.fromkeys(range(first, last + 1))
    return tuple(cpus)


def _bounds(part: str, text: str) -> tuple[bool, int, int]:
    match = _PART.fullmatch(part)
    if match is None or (match[1] and match[3]):
        raise _error(text, f"'{part}' is neither a CPU nor a range")
    if any(number and len(number.lstrip("0")) > 5 for number in match.group(2, 3)):
        raise _error(text, f"'{part}' is beyond the highest CPU number, {HIGHEST_CPU}")
    first, last = int(match[2]), int(match[3] or match[2])
    if last > HIGHEST_CPU:
        raise _error(text, f"'{part}' is beyond the highest CPU number, {HIGHEST_CPU}")
    if first > last:
        raise _error(text, f"'{part}' runs backwards")
    return bool(match[1]), first, last


def _error(text: str, why: str) -> CpuListError:
    return CpuListError(f"CPU list {_short(text)}: {why}. Write CPUs and ranges with commas, such as 0-3,8 or 0-7,^2.")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def format(cpus: Iterable[int]) -> str:
    """The shortest list that names these CPUs.

    >>> format({8, 2, 0, 1})
    '0-2,8'
    """
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
