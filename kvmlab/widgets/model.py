"""What the pin canvas draws, made from frames and samples: columns, rows, and the numbers of the last seconds.

Nothing here reads a machine: a recorded host and made-up rows are drawn as well as this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from kvmlab.host import cpulist

WINDOW_S = 5.0
PARTS = ("guest", "user", "kernel", "waiting", "halted")
UNKNOWN = 0xFFFF


@dataclass(frozen=True)
class Row:
    """One line of the canvas: a thread that can be placed, or all emulator threads of a guest together.

    Parameters
    ----------
    key : tuple or str
        As ``lab.plan`` takes it: ("c1", 0), ("c1", "emulator"), ("c1", "iothread 1"), "tid 4711".
    who : str
        What stands on it: "vCPU 0", "emulator", "I/O thread 1", or the name of a thread of nobody's.
    kind : str
        vcpu, emulator, iothread or thread.
    allowed : str
        The host CPUs that the kernel lets it use.
    locked : str, optional
        Why it cannot be moved from here.
    """

    key: tuple[str, int | str] | str
    who: str
    kind: str
    allowed: str
    locked: str | None = None

    @property
    def guest(self) -> str | None:
        return self.key[0] if isinstance(self.key, tuple) else None

    @property
    def name(self) -> str:
        """What names it everywhere: the linter's words, too."""
        return f"{self.guest} {self.who}" if isinstance(self.key, tuple) else self.key

    def told(self) -> dict:
        """For the browser."""
        return {"id": self.name, "guest": self.guest, "who": self.who, "kind": self.kind, "allowed": self.allowed, "locked": self.locked}


class Used(NamedTuple):
    """What a row did between two looks: seconds, and where. None is what the kernel does not say."""

    cpu: int
    run_s: float | None
    wait_s: float | None
    guest_s: float
    user_s: float
    kernel_s: float
    moves: int | None


class Window:
    """The last seconds of all rows, and of all host CPUs."""

    def __init__(self, cpus: Sequence[int]):
        self.place = {cpu: number for number, cpu in enumerate(cpus)}
        self._steps: deque[tuple[float, float, dict[str, list[Used]], np.ndarray]] = deque()

    def add(self, now: float, seconds: float, used: dict[str, list[Used]], busy: np.ndarray) -> None:
        """What happened in the `seconds` up to `now`; `busy` is the share of each host CPU that was in use, in column order."""
        self._steps.append((now, seconds, used, busy))
        while now - self._steps[0][0] >= WINDOW_S:
            self._steps.popleft()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def busy(self) -> np.ndarray:
        """The share of each host CPU that was in use."""
        total = sum(step[1] for step in self._steps)
        return sum((step[1] * step[3] for step in self._steps), np.zeros(len(self.place))) / total if total else np.zeros(len(self.place))

    def of(self, name: str) -> tuple[dict[int, tuple[float, float]], list[float | None]]:
        """Host CPU -> the shares of the time that the row ran and waited there; and its parts: PARTS, and moves a second."""
        steps = [(step[1], step[2][name]) for step in self._steps if name in step[2]]
        seconds = sum(step[0] for step in steps)
        if not seconds:
            return {}, [None] * (len(PARTS) + 1)
        used = [one for _, several in steps for one in several]
        cells: dict[int, list[float]] = {}
        for one in used:
            cell = cells.setdefault(one.cpu, [0.0, 0.0])
            ran = one.guest_s + one.user_s + one.kernel_s if one.run_s is None else one.run_s
            cell[0] += ran / seconds
            cell[1] += (one.wait_s or 0.0) / seconds
        return {cpu: (cell[0], cell[1]) for cpu, cell in cells.items()}, _went(used, cells, seconds)


def _went(used: list[Used], cells: dict[int, list[float]], seconds: float) -> list[float | None]:
    """The parts of its time, those of the kernel's ticks scaled to the exact CPU time."""
    ran, ticks = sum(cell[0] for cell in cells.values()), sum(u.guest_s + u.user_s + u.kernel_s for u in used)
    scale = ran / ticks if ticks else 0.0
    parts = [scale * sum(values) for values in zip(*((u.guest_s, u.user_s, u.kernel_s) for u in used), strict=True)]
    known = all(u.wait_s is not None for u in used)
    waited = sum(u.wait_s for u in used) / seconds if known else None
    moves = sum(u.moves for u in used) / seconds if all(u.moves is not None for u in used) else None
    return [*parts, waited, max(0.0, 1 - ran - (waited or 0.0)), moves]


def packed(window: Window, rows: Sequence[Row]) -> bytes:
    """The numbers of all rows, as small as they are: the cells where nothing happened are left out.

    Little-endian: four uint32 (rows, CPUs, cells, 0), a uint32 a cell (row x CPUs + column), six uint16 a row (five parts in
    thousandths, moves in tenths a second; 65535 is not known), a byte a cell (percent it ran), a byte a cell (percent it
    waited), a byte a CPU (percent it was busy).
    """
    places, ran, waited, went = [], [], [], []
    for number, row in enumerate(rows):
        cells, parts = window.of(row.name)
        for cpu, (run, wait) in cells.items():
            if cpu in window.place and max(run, wait) >= 0.005:
                places.append(number * len(window.place) + window.place[cpu])
                ran.append(run)
                waited.append(wait)
        went += [UNKNOWN if part is None else min(UNKNOWN - 1, round(part * scale)) for part, scale in zip(parts, _SCALES, strict=True)]
    head = np.array([len(rows), len(window.place), len(places), 0, *places], dtype="<u4").tobytes()
    shares = np.concatenate([np.array(ran), np.array(waited), window.busy()])
    return head + np.array(went, dtype="<u2").tobytes() + np.clip(np.rint(100 * shares), 0, 255).astype("u1").tobytes()


_SCALES = (1000,) * len(PARTS) + (10,)


# ---- the host


def columns(cpus: pd.DataFrame, caches: pd.DataFrame | None = None, nodes: pd.DataFrame | None = None) -> dict:
    """The online host CPUs in the order of the topology, with the boxes that stand above them, tier by tier.

    Returns
    -------
    dict
        "cpus": a dict a column; "tiers": from the outermost in, lists of [first column, columns, kind, texts from long to short].
    """
    from kvmlab.plots import boxes

    machine, _ = boxes.tree(cpus[cpus["online"].fillna(True).astype(bool)], caches, nodes)
    order = [box for box in machine.all() if box.kind == "cpu"]
    place = {min(box.cpus): number for number, box in enumerate(order)}
    found: dict[str, list] = {}
    for box in machine.all():
        if box.cpus and box.kind not in ("machine", "cpu", "offline"):
            found.setdefault(box.kind, []).append([min(place[cpu] for cpu in box.cpus), len(box.cpus), box.kind, _texts(box)])
    if machine.caches:
        found["machine"] = [[0, len(order), "machine", _texts(machine)]]
    tiers = sorted(found.values(), key=lambda spans: -max(span[1] for span in spans))
    if len(found.get("core", ())) == len(order) > 16:  # no SMT: a core's number over each CPU's says little
        tiers.remove(found["core"])
    rows = cpus.set_index("cpu").loc[[min(box.cpus) for box in order]]
    return {"cpus": [_cpu(int(cpu), row, box) for (cpu, row), box in zip(rows.iterrows(), order, strict=True)], "tiers": tiers}


def _texts(box) -> list[str]:
    """What may stand on a box, the longest first."""
    names = [*box.names, *box.caches]
    texts = [" · ".join(names[:end]) for end in range(len(names), 0, -1)]
    return [*texts, names[0].rpartition(" ")[2] if box.names else names[0].split()[0]] if names else [""]


def _cpu(cpu: int, row: pd.Series, box) -> dict:
    words = [f"{level} {int(row[level])}" for level in ("core", "die", "socket", "node") if pd.notna(row[level])]
    where = [int(row[level]) if pd.notna(row[level]) else None for level in ("socket", "die", "core")]
    return {"cpu": cpu, "where": ", ".join(words), "core": where, "special": box.state}


def pins(host: dict, rows: Iterable[Row], wishes: dict[str, str], window: Window) -> list[tuple]:
    """One row a thread and host CPU, in the order of columns.FRAMES["pins"]."""
    busy = dict(zip(window.place, 100 * window.busy(), strict=True)) if window else {}
    found = []
    for row in rows:
        cells, parts = window.of(row.name)
        allowed = set(cpulist.parse(row.allowed))
        wished = set(cpulist.parse(wishes[row.name])) if wishes.get(row.name) else set() if row.name in wishes else allowed
        for cpu in host["cpus"]:
            number = cpu["cpu"]
            ran, waited = cells.get(number, (0.0, 0.0)) if parts[0] is not None else (None, None)
            numbers = [None if value is None else 100 * value for value in (ran, waited if parts[3] is not None else None)]
            where = (number, cpu["where"] or None, cpu["special"] or None, number in allowed, number in wished)
            found.append((row.guest, row.who if row.guest else f"{row.who}, {row.name}", *where, *numbers, busy.get(number)))
    return found
