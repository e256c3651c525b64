"""Exercises of 04_overcommit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from kvmlab.course import look
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError, KvmlabError

_PAUSE_S, _ABOUT = 0.010, 1.25  # what a pause may be off: two runs differ by as much
_MOST = 15
_WEIGHTS = (512, 1024, 2048)
_LONG_S, _LUCK = 0.001, 100  # a turn that waited for another guest; and how much rarer than that is a matter of luck


def _cpu() -> int:
    return max(os.sched_getaffinity(0))


@exercise(
    "04.1",
    "As many guests as bear a pause of 10 ms",
    hints=(
        "sweep.groupby('guests').longest_s.max() has the longest pause with 1, 2, 4 and 8 guests, in seconds.",
        "Each guest more is one more that may come first, for some milliseconds. Try the numbers between: guests=(3, 4, 5).",
    ),
    wants="a number of guests",
)
def pause(labs: Labs, answer: int) -> Iterator[Finding]:
    from kvmlab import measure

    number = _whole(answer, 1, _MOST)
    tried = measure.overcommit(look.own_lab(labs), (number, number + 1), str(_cpu()), seconds=0.4, repeats=2, progress=False)
    others = float(tried.groupby("guests").others.min().max())
    if others > look.QUIET:  # what somebody else did is not what was asked
        yield from look.somebody_else(others, _cpu())
        return
    runs = tried[tried.others <= look.QUIET].groupby(["guests", "repeat"]).longest_s.max()
    pauses = runs.groupby("guests").min().astype(float)  # one hiccup of the machine is no over-commit
    yield Finding(pauses[number] <= _PAUSE_S * _ABOUT, f"With {_guests(number)} the longest pause is {_length(pauses[number])}.")
    enough = pauses[number + 1] > _PAUSE_S / _ABOUT
    yield Finding(enough, f"With one more it is {_length(pauses[number + 1])}{'' if enough else ': there is room'}.")


def _length(pause: float) -> str:
    about = ", about 10, for two runs differ by as much" if 1 / _ABOUT < pause / _PAUSE_S <= _ABOUT else ""
    return f"{1e3 * pause:.1f} ms{about}"


def _guests(number: int) -> str:
    return f"{number} guest{'s' * (number > 1)}"


def _whole(answer: object, least: int, most: int) -> int:
    number = int(answer)
    if number != answer or not least <= number <= most:
        raise CourseError(f"{answer!r} is not a whole number from {least} to {most}.")
    return number


@exercise(
    "04.2",
    "The percentile that shows four guests on a CPU",
    hints=(
        "In the picture of the turns, the line of four guests stays level to the right: how high? That part of all turns is long.",
        "turns['4 on the CPU'] has it in numbers: of all counts, the part whose from_s is a millisecond or more. "
        "A percentile is 100 less than that part in percent, and a little higher.",
    ),
    wants="a percentile, such as 99",
)
def percentile(labs: Labs, answer: float) -> Iterator[Finding]:
    asked = float(answer)
    if not 0 < asked < 100:
        raise CourseError(f"{answer!r} is not between 0 and 100: the longest turn of all is one turn, and its length is luck.")
    before, after = _turns_of_one_of_four(look.own_lab(labs))
    counts = after["count"] - before["count"]
    long, rare = float(counts[after.from_s >= _LONG_S].sum() / counts.sum()), 1 - asked / 100
    told = f"With four guests on CPU {_cpu()}, {100 * long:.3g} % of the turns took a millisecond or more"
    yield Finding(
        rare < long, f"{told}; {100 * rare:.3g} % are above percentile {asked:g}{'' if rare < long else ', so it is a quick one'}."
    )
    if rare < long:
        often = rare * _LUCK > long
        yield Finding(often, f"Percentile {asked:g} is {'not ' if often else ''}so high that it is a matter of luck.")


def _turns_of_one_of_four(lab):
    with look.own_guests(lab, 1, 1, 1, 1) as guests:
        lab.plan({(guest.name, 0): _cpu() for guest in guests}).apply()
        try:
            for guest in guests:
                guest.work("spin")
            before = guests[0].tails()
            time.sleep(1)
            return before, guests[0].tails()
        finally:
            lab.undo()


@exercise(
    "04.3",
    "What three get when the fourth goes idle",
    hints=(
        "Nobody wants the part of weight 4096 now: the CPU is shared out to the other three.",
        "512 of 512 + 1024 + 2048 is one seventh.",
    ),
    wants="three percentages, such as [10, 20, 30]",
)
def weights(labs: Labs, answer) -> Iterator[Finding]:
    given = [float(part) for part in answer]
    if len(given) != len(_WEIGHTS):
        raise CourseError(f"{answer!r} has {len(given)} numbers, and there are three guests.")
    if 0 < max(given) <= 1:
        raise CourseError(f"{answer!r} are parts of one. Percentages are wanted, such as [10, 20, 30].")
    for weight, part in zip(_WEIGHTS, given, strict=True):
        right = 100 * weight / sum(_WEIGHTS)
        close = _word(part - right, 1.5) == "right"
        yield Finding(close, f"{part:.0f} % for weight {weight} is {_word(part - right, 1.5)}.")


def _word(off: float, most: float) -> str:
    return "right" if abs(off) < most else "too much" if off > 0 else "too little"


@exercise(
    "04.4",
    "c1 counts three times as much as c2, and c2 never gets more than a quarter of a CPU",
    hints=(
        "lab.schedinfo('c1') shows a guest's shares and quota; with cpu_shares=... it sets them. So does virsh schedinfo.",
        "A quota is in microseconds of each period of 100 000: vcpu_quota=25_000 is a quarter. c1 has none.",
    ),
    wants="'here' once it is set or, where nobody can set it, the numbers",
)
def shares(labs: Labs, answer) -> Iterator[Finding]:
    set_, why = _set(labs)
    if why and not isinstance(answer, Mapping):
        example = "{'c1': {'cpu_shares': 1024}, 'c2': {'cpu_shares': 1024, 'vcpu_quota': 50_000}}"
        yield Finding(False, f"Nobody can set it here ({why}). The numbers that you would set count instead, such as {example}.")
        return
    if why:
        set_ = {name: _numbers(answer, name) for name in ("c1", "c2")}
        yield Finding(True, f"Nobody can set it here ({why}): these are your numbers.")
    first, second = (set_[name][0] for name in ("c1", "c2"))
    yield Finding(abs(first / second - 3) < 0.1, f"c1 has {first} shares and c2 {second}: {first / second:.3g} times as many.")
    for name, most in (("c1", None), ("c2", 0.25)):
        quota = set_[name][1]
        fits = quota is None if most is None else quota is not None and abs(quota - most) < 0.01
        yield Finding(fits, f"{name} may use {'all of each CPU' if quota is None else f'{quota:.0%} of a CPU'} for a vCPU.")


def _set(labs: Labs) -> tuple[dict[str, tuple[int, float | None]], str | None]:
    """What libvirt knows of c1 and c2, or why nobody can set it."""
    found = {}
    for name in ("c1", "c2"):
        try:
            seen = labs.lab(name).schedinfo(name)
        except KvmlabError as error:
            if not any(name in lab.own for lab in labs.open):
                raise
            return {}, str(error)
        if seen.cpu_shares.isna()[0]:
            return {}, seen.attrs["unavailable"]["cpu_shares"]
        found[name] = int(seen.cpu_shares[0]), None if seen.quota.isna()[0] else float(seen.quota[0])
    return found, None


def _numbers(answer: Mapping, name: str) -> tuple[int, float | None]:
    given = answer.get(name) if isinstance(answer, Mapping) else None
    told = (
        [given.get("cpu_shares"), given.get("vcpu_quota", -1), given.get("vcpu_period", 100_000)] if isinstance(given, Mapping) else [None]
    )
    if {*map(type, told)} != {int} or told[0] < 1:
        raise CourseError(f"{answer!r:.80} says no cpu_shares of {name}, or something else than whole numbers.")
    quota = told[1]
    return told[0], quota / told[2] if quota > 0 else None


@exercise(
    "04.5",
    "What one vCPU gets beside a guest with two",
    hints=(
        "four.attrs['grouped'] says whether the kernel shares the CPU out to guests first (cgroups: root), or to threads.",
        "Two guests, or three threads: how much of the CPU is one of them?",
    ),
    wants="a percentage",
)
def beside_two(labs: Labs, answer: float) -> Iterator[Finding]:
    given, lab = float(answer), look.own_lab(labs)
    part = measured_part(lab, {(0, 0): _cpu(), (0, 1): _cpu(), (1, 0): _cpu()})
    yield as_measured(given, 100 * part)


def measured_part(lab, pins: Mapping[tuple[int, int], int]) -> float:
    """Of what the vCPUs on its CPU ran, the part of the second guest's one vCPU; the first guest has two.

    A ratio, so that whoever else is busy there takes from both alike.
    """
    from kvmlab import measure

    with look.own_guests(lab, 2, 1) as guests:
        lab.plan({(guests[number].name, vcpu): cpu for (number, vcpu), cpu in pins.items()}).apply()
        try:
            for guest in guests:
                guest.work("spin")
            time.sleep(0.3)
            rates = measure.rates(lab.sample(seconds=1, progress=False)).set_index(["guest", "vcpu"]).run_pct
        finally:
            lab.undo()
        ran = {(number, vcpu): float(rates[guests[number].name, vcpu]) for number, vcpu in pins}
    return ran[1, 0] / sum(ran[one] for one, cpu in pins.items() if cpu == pins[1, 0])


def as_measured(given: float, percent: float) -> Finding:
    """Whether a percentage is the measured one; where it is not, that is not given away."""
    if 0 < given <= 1:
        return Finding(False, f"{given:g} is a part of one. A percentage is wanted, such as 10.")
    if abs(given - percent) < 6:
        return Finding(True, f"You said {given:.0f} %. Measured just now, of what all ran on that CPU: {percent:.0f} %.")
    return Finding(False, f"It was measured just now, and {given:.0f} % is too {'much' if given > percent else 'little'}.")
