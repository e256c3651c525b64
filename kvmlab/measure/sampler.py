"""Running guests, read again and again on a clock that does not drift: for a while, or in the background."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest import kvmstats
from kvmlab.guest.guest import Guest
from kvmlab.guest.watch import Guests, Watch
from kvmlab.measure.progress import Progress

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

_LOOK_S = 1.0  # how often guests are looked for that came meanwhile
_GOLDEN = 0.618033988749895  # its multiples fall evenly between 0 and 1, and keep step with nothing


class Sampler:
    """Samples guests in the background, until the with-block ends.

    Ticks fall within a quarter of their period around a clock that does not drift: exactly even ones could keep step with a
    timer of the guest, and would always find it in the same state. Guests that come are found within a second; those that go
    are in the frame for as long as they were there. 16 vCPUs at 10 Hz take under 1 % of a CPU, and an hour of them some 300 MB.

    Parameters
    ----------
    lab : Lab, Guest or several
        What to watch: all guests that run on a Lab's libvirt, or some of its own.
    hz : float
        Samples a second, up to 100.

    Examples
    --------
    >>> with measure.Sampler(lab) as sampler:                 # doctest: +SKIP
    ...     lab.plan({("c1", 0): "1"}).apply()
    ...     time.sleep(3)
    >>> measure.in_words(sampler.frame())                     # doctest: +SKIP
    """

    def __init__(self, lab: GuestLab | Guest | Sequence[Guest], hz: float = 10):
        if not 0 < hz <= 100:
            raise KvmlabError(f"hz={hz!r}: write up to 100 samples a second.")
        own = [lab] if isinstance(lab, Guest) else lab if isinstance(lab, Sequence) else None
        self._lab = lab if own is None else None
        self._watch = Watch(Guests(lab) if own is None else lambda: [guest.process for guest in own])
        self._hz, self._accel = hz, (own[0] if own else lab).accel
        self._rows: list[tuple] = []
        self._missed, self._stopped = 0, False
        self._stop = threading.Event()
        self._first: dict[tuple, tuple] = {}
        self._kvm: list[tuple] = []

    def __enter__(self) -> Sampler:
        self._begin()
        self._thread = threading.Thread(target=self._run, name="kvmlab sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def stop(self) -> None:
        """End it before the with-block does; what was sampled stays."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._end()

    def run(self, seconds: float, progress: bool | None = None) -> pd.DataFrame:
        """Sample here and now, for `seconds`; Ctrl-C ends it early, and what was sampled until then is kept."""
        if not 0 < seconds <= 3600:
            raise KvmlabError(f"seconds={seconds!r}: sample for up to 3600 seconds.")
        self._begin()
        try:
            with Progress(seconds, progress) as bar:
                self._run(seconds, lambda spent: bar.tell(spent / seconds, f"sampled {spent:.0f} of {seconds:g} s"))
        except KeyboardInterrupt:
            self._stopped = True
            if progress is not False:  # part of a longer measurement, which says it
                print("Stopped: what was sampled until now is kept.", file=sys.stderr)
        finally:
            self._end()
        return self.frame()

    @documents("vcpus")
    def frame(self) -> pd.DataFrame:
        """What was sampled so far, also while it goes on.

        ``attrs``: `hz`; `missed`, the ticks that were skipped because the machine was too busy to keep up; `stopped`, whether
        Ctrl-C ended it; `accels`, kvm or tcg by guest; `kvm`, what KVM counted meanwhile: lists of guest, vCPU, seconds and
        a dict of its counters.

        """
        result = frame(list(self._rows), "vcpus")
        reasons = result.attrs["unavailable"] | self._watch.unavailable
        result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
        told = {"hz": self._hz, "missed": self._missed, "stopped": self._stopped, "accel": self._accel}
        result.attrs |= told | {"accels": dict(self._watch.accels), "kvm": [list(entry) for entry in self._kvm]}
        return result

    def _begin(self) -> None:
        if self._rows:
            raise KvmlabError("This Sampler has run already: make another one.")
        self._watch.look()
        self._read_statistics()

    def _run(self, seconds: float = float("inf"), told: Callable[[float], None] = lambda spent: None) -> None:
        begin = looked = time.monotonic()
        for missed in beats(self._hz, seconds, self._stop):
            self._missed = missed
            self._rows += self._watch.rows()
            now = time.monotonic()
            told(now - begin)
            if now - looked > _LOOK_S:
                looked = now
                with suppress(KvmlabError):  # the Lab was closed, or libvirt went: what is known is sampled on
                    if self._watch.look():
                        self._read_statistics()

    def _end(self) -> None:
        with suppress(KvmlabError):
            for key, (when, counters) in self._statistics().items():
                if key in self._first:
                    begin, before = self._first[key]
                    risen = {name: counters[name] - before[name] for name in counters.keys() & before.keys() if _told(name)}
                    self._kvm.append((*key[1:], when - begin, dict(sorted(risen.items()))))
        self._watch.close()

    def _read_statistics(self) -> None:
        with suppress(KvmlabError):
            self._first = self._statistics() | self._first

    def _statistics(self) -> dict[tuple, tuple[float, dict[str, int]]]:
        """When each vCPU's counters were read, and what they were."""
        found = kvmstats.read(self._lab) if self._lab else {}
        return {key: (time.monotonic(), counters) for key, counters in found.items()}


def _told(name: str) -> bool:
    """Of KVM's many counters, those that a ledger uses."""
    return "exit" in name or name == "halt_wait_ns"


def sample(lab: GuestLab | Guest | Sequence[Guest], seconds: float = 5, hz: float = 10, progress: bool | None = None) -> pd.DataFrame:
    """What ``lab.sample`` does; also for some of a Lab's own guests alone."""
    return Sampler(lab, hz).run(seconds, progress)


def follow(read: Callable[[], pd.DataFrame], seconds: float = 5, hz: float = 10) -> pd.DataFrame:
    """Any frame of counters, such as ``host.cpu_times``, read `hz` times a second, below each other.

    ``attrs["missed"]`` counts the ticks that were skipped because the machine was too busy to keep up.

    Parameters
    ----------
    read : callable
        Gives a frame; its rows should tell when they were read (time_s).
    seconds, hz : float
        Up to 3600 seconds, up to 100 times a second.

    Raises
    ------
    KvmlabError
        For other numbers.

    Examples
    --------
    >>> from kvmlab import Host
    >>> follow(Host().cpu_times, seconds=0.1, hz=20)["time_s"].nunique() > 1
    True
    """
    if not (0 < seconds <= 3600 and 0 < hz <= 100):
        raise KvmlabError(f"seconds={seconds!r}, hz={hz!r}: write more than 0, up to 3600 seconds and up to 100 samples a second.")
    ticks = [(missed, read()) for missed in beats(hz, seconds, threading.Event())]
    frames = [read for _, read in ticks]
    result = pd.concat(frames, ignore_index=True)
    result.attrs = frames[-1].attrs | {"hz": hz, "missed": ticks[-1][0]}
    return result


def beats(hz: float, seconds: float, stop: threading.Event) -> Iterator[int]:
    """Returns at each tick, with how many were missed before it: a period late or more. The last one is not missed."""
    begin, missed = time.monotonic(), 0
    last = round(seconds * hz) if seconds < float("inf") else None
    tick = 0
    while last is None or tick <= last:
        off = 0 if tick in (0, last) else (tick * _GOLDEN % 1 - 0.5) / 2
        late = time.monotonic() - begin - (tick + off) / hz
        skipped = late > 1 / hz and tick != last
        tick += 1
        if skipped:
            missed += 1
        elif stop.wait(max(0.0, -late)):
            return
        else:
            yield missed
