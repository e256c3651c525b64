"""CPU time of each online host CPU since boot, by what it was spent on.

Source: proc(5), /proc/stat: the cpuN lines. iowait_s may fall: the kernel does not promise otherwise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import TICKS_PER_S

_CPU = re.compile(rb"cpu(\d{1,9})")
_FIELDS = 10  # user nice system idle iowait irq softirq steal guest guest_nice; Linux 2.6.33 was the first to have them all


def rows(root: SysRoot) -> Iterator[tuple]:
    """The CPUs that /proc/stat lists, in the order of columns.FRAMES["cpu_times"]."""
    text = root.read_bytes("proc/stat") or b""
    time_s = time.monotonic() if root.live else None  # of a recording, nobody knows when
    for line in text.splitlines():
        name, *words = line.split() or [b""]
        if match := _CPU.fullmatch(name):
            yield time_s, int(match[1]), *_seconds(words)


def _seconds(words: list[bytes]) -> tuple[float | None, ...]:
    """Linux counts guest time inside user time, and guest_nice inside nice, each on its own tick: what is left stays above 0."""
    ticks = ([_number(word) for word in words] + [None] * _FIELDS)[:_FIELDS]
    for whole, part in ((0, 8), (1, 9)):
        if len(words) > part:
            ticks[whole] = _without(ticks[whole], ticks[part])
    return tuple(None if n is None else n / TICKS_PER_S for n in ticks)


def _without(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else max(0, whole - part)


def _number(word: bytes) -> int | None:
    return int(word) if word.isdigit() and len(word) < 21 else None
