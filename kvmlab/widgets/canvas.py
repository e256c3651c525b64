"""class PinCanvas: a picture of where threads may run and where they do, to place them in.

State lives in traits, so that several views of one canvas stay in step; the numbers of the last seconds travel as bytes.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import traitlets as t

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError, PinError, PlanError
from kvmlab.guest.vcpus import ROOT
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.host import Host
from kvmlab.widgets import judge, model
from kvmlab.widgets.reader import Reader

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.targets import Pin
    from kvmlab.lab import Lab

_HERE = Path(__file__).parent
_HZ = 5
_UNSEEN_S = 12.0  # a view says every few seconds that somebody can see it
_LINT_AFTER_S = 0.1  # of quiet
_LINT_AGAIN_S = 10.0
STRATEGIES = ("spread", "pack", "siblings", "one-to-one", "like-guest")

_WHY_NOT = {
    "guest": "the thread belongs to no guest",
    "where": "the kernel does not say where this CPU is",
    "special": "an ordinary CPU: neither isolated nor nohz_full",
    "ran_pct": "it was not watched yet",
    "waited_pct": "this kernel has no /proc/PID/schedstat, or it was not watched yet",
    "busy_pct": "nothing was watched yet",
}

_Key = tuple[str, int | str] | str


class PinCanvas(anywidget.AnyWidget):
    """Rows: what can be placed. Columns: the host CPUs, under their cores, caches, sockets and nodes.

    A cell says three things: the row may run there (tint), it really did in the last seconds (height of the bar; what it
    waited stands on top of it), and it will be given or taken away on Apply (frame; dashed where it is taken away).

    What the buttons do can be typed: ``wish``, ``apply``, ``undo``; ``table()`` is the picture as a frame.

    Examples
    --------
    >>> pins = lab.pin_widget()                               # doctest: +SKIP
    >>> pins.wish({("c1", 0): "1"})                           # doctest: +SKIP
    >>> pins.apply()                                          # doctest: +SKIP
    """

    _esm = _HERE / "canvas.js"
    _css = _HERE / "canvas.css"

    _about = t.Dict().tag(sync=True)  # which libvirt, what it runs guests with, the planners
    _host = t.Dict().tag(sync=True)
    _rows = t.List().tag(sync=True)
    _live = t.Bytes().tag(sync=True)
    _wished = t.Dict(value_trait=t.Unicode(), key_trait=t.Unicode()).tag(sync=True)  # name of a row -> the CPUs it is to have
    _marks = t.Dict().tag(sync=True)  # name of a row -> the CPUs that the last Apply gave it
    _told = t.Dict().tag(sync=True)  # the linter's words, the lines to type, what is wrong with the wishes
    _status = t.Dict().tag(sync=True)
    _undo_steps = t.Int().tag(sync=True)
    _ask = t.Unicode().tag(sync=True)  # "undo": pressed once more, it overwrites what others did
    _ended = t.Unicode().tag(sync=True)

    def __init__(self, lab: Lab):
        super().__init__()
        self.lab = lab
        self._basis: dict[str, str] = {}  # what the kernel said of a row when it was first wished
        self._aside = judge.Aside(lab)
        self._reasons: tuple[dict[str, str], list[str]] = ({}, [])  # of a planner, and the wishes that they are for
        self._judging: asyncio.Handle | None = None
        self._linting: asyncio.Task | None = None
        self._seen = self._judged = time.monotonic()
        self._begin()
        self._about = {"uri": lab.uri, "accel": lab.accel.upper(), "strategies": list(STRATEGIES)}
        self.on_msg(self._heard)
        self.observe(self._wishes_changed, "_wished")
        self.observe(self._steps_changed, "_undo_steps")
        self._loop = None
        with suppress(RuntimeError):  # no event loop, as in a plain script: it works, and nothing moves by itself
            self._loop = asyncio.get_running_loop()
            self._running = self._loop.create_task(self._run())
        self.refresh()
        self._judge_soon()

    def __repr__(self) -> str:
        wishes = "; ".join(f"{name} on CPU {cpus or 'none'}" for name, cpus in self._wished.items())
        return f"PinCanvas: {len(self._rows)} rows on {len(self._host.get('cpus', ()))} host CPUs. Wished: {wishes or 'nothing'}"

    # ---- what it is drawn from

    def _begin(self) -> None:
        self._online = online_cpus(ROOT)
        host = Host()
        self._host = model.columns(host.cpus(), host.caches(), host.nodes())
        self._reader = Reader(self.lab, [cpu["cpu"] for cpu in self._host["cpus"]])

    def _changed_host(self) -> bool:
        return tuple(online_cpus(ROOT)) != tuple(self._online)

    def refresh(self) -> None:
        """Read the kernel now; in a notebook it happens by itself, five times a second."""
        if self._changed_host():
            self._reader.close()
            self._begin()
        self._reader.read()
        rows = [row.told() for row in self._reader.rows]
        with self.hold_sync():
            if rows != self._rows:
                self._rows = rows
                self._drop_wishes()
                self._judge_soon()
            self._live = model.packed(self._reader.window, self._reader.rows)
            self._undo_steps = self.lab.undoable

    def _drop_wishes(self) -> None:
        """Those that came true by themselves, and those of rows that are gone."""
        allowed, kept = self._allowed(), self._open(self._wished)
        if kept != self._wished:
            self._wished = kept
        if gone := [name for name in self._marks if allowed.get(name) != self._marks[name]]:
            self._marks = {name: cpus for name, cpus in self._marks.items() if name not in gone}

    def _open(self, wished: dict[str, str]) -> dict[str, str]:
        """Without what is so already, and without rows that are gone."""
        allowed = self._allowed()
        return {name: cpus for name, cpus in wished.items() if allowed.get(name, cpus) != cpus}

    def _allowed(self) -> dict[str, str]:
        return {row.name: row.allowed for row in self._reader.rows}

    async def _run(self) -> None:
        while self.comm is not None:
            try:
                self.refresh()
                if time.monotonic() - self._judged > _LINT_AGAIN_S:
                    self._judge_soon()
            except Exception as error:  # whatever it was: a picture that stands still must not look alive
                self._ended = (
                    _words(error) if isinstance(error, KvmlabError) else f"This canvas has stopped: {_words(error)}. Run the cell again."
                )
                break
            await asyncio.sleep(1 / _HZ if time.monotonic() - self._seen < _UNSEEN_S else 1)
        self._reader.close()

    @documents("pins")
    def table(self) -> pd.DataFrame:
        """One row a thread and host CPU, with what happened there in the last seconds.

        Examples
        --------
        >>> lab.pin_widget().table().query("may_run and ran_pct > 5")           # doctest: +SKIP

        """
        result = frame(model.pins(self._host, self._reader.rows, self._wished, self._reader.window), "pins")
        result.attrs["unavailable"] = {column: why for column, why in _WHY_NOT.items() if result[column].isna().any()}
        return result

    # ---- what is wished

    def wishes(self) -> dict[_Key, str]:
        """The rows that are to change, as ``lab.plan`` takes them."""
        keys = {row.name: row.key for row in self._reader.rows}
        return {keys[name]: cpus for name, cpus in self._wished.items() if name in keys}

    def wish(self, pins: Mapping[_Key, str | int]) -> None:
        """Arrange rows, as ``lab.plan`` takes them, without changing anything yet. An empty mapping drops all wishes.

        Raises
        ------
        PlanError
            For a row that is not there.
        """
        names = {row.key: row.name for row in self._reader.rows}
        if unknown := [key for key in pins if key not in names]:
            raise PlanError(f"The canvas has no row {unknown[0]!r}: it has {', '.join(map(repr, names)) or 'none'}.")
        allowed = self._allowed()
        wished = {names[key]: cpulist.format(cpulist.parse(str(cpus))) if cpus != "" else "" for key, cpus in pins.items()}
        self._wished = {name: cpus for name, cpus in wished.items() if cpus != allowed[name]}

    def _wishes_changed(self, _change: object) -> None:
        if self._wished and not self._open(self._wished):  # Apply's message overtook this one: what it said stands
            self._wished = {}
            return
        allowed = self._allowed()
        self._basis = {name: self._basis.get(name, allowed.get(name, "")) for name in self._wished}
        if self._wished:
            self._say("")
            self._marks, self._ask = {}, ""
        self._judge_soon()

    def _steps_changed(self, _change: object) -> None:
        self._ask = ""

    # ---- what it does

    def apply(self) -> None:
        """Make the kernel agree with the wishes: all or nothing, and read back. What is so already is left alone.

        Raises
        ------
        PinError
            When another tool moved one of these rows since it was wished: look at it and apply again; and as ``Plan.apply``.
        PlanError
            When the wishes cannot be, such as a row without a CPU.
        """
        self.refresh()
        self._drop_wishes()
        allowed = self._allowed()
        if changed := [name for name in self._wished if allowed.get(name) != self._basis.get(name)]:
            self._basis |= {name: allowed[name] for name in changed if name in allowed}
            now = "; ".join(f"{name} may run on CPU {allowed.get(name, 'none')} now" for name in changed)
            raise PinError(f"Another tool was here meanwhile: {now}. Nothing was changed. Look again, then apply again.")
        applied = dict(self._wished)
        if not applied:
            _ = self.lab.connection  # raises where it is closed
            return
        self.lab.plan(self.wishes()).apply()
        self._reader.read()
        with self.hold_sync():
            self._wished = {}
            self._marks = {name: cpus for name, cpus in applied.items() if self._allowed().get(name) == cpus}
            self.refresh()

    def undo(self, force: bool = False) -> int:
        """Take the last change back, as ``lab.undo``; how many rows were put back.

        Raises
        ------
        PinError
            When another tool moved one of them since; `force` overwrites that.
        """
        count = self.lab.undo(force=force)
        self._marks, self._ask = {}, ""
        self.refresh()
        return count

    def plan(self, strategy: str) -> None:
        """Wish what ``lab.autoplan`` proposes for the guests that may be moved; its reasons stand below."""
        guests = sorted({row.guest for row in self._reader.rows if row.guest and not row.locked})
        if not guests:
            raise PlanError("There is no guest to plan for: lab.start('c1', vcpus=2) starts one.")
        plan = self.lab.autoplan(strategy, guests=guests)
        self.wish({pin.key: cpulist.format(pin.cpus) for pin in plan.pins})
        self._reasons = dict(self._wished), list(plan.reasons)
        self._say(f"{strategy}: nothing is changed before Apply." if self._wished else f"{strategy}: everything is placed so already.")

    # ---- the browser

    def _heard(self, _widget: object, message: dict, _buffers: object) -> None:
        self._seen = time.monotonic()
        deeds = {"apply": self._pressed_apply, "undo": self._pressed_undo, "plan": self._pressed_plan}
        deed = message.get("do") if isinstance(message, dict) else None
        if not isinstance(deed, str) or deed not in deeds or (deed == "apply" and not _are_wishes(message.get("wished"))):
            return  # that somebody looks, or no message of the page
        try:
            deeds[deed](message)
        except Exception as error:  # the page waits for an answer
            with suppress(Exception):  # first: wishes that came true by now end the words before
                self.refresh()
            self._say(_words(error), "bad")

    def _pressed_apply(self, message: dict) -> None:
        self.refresh()
        wished = self._open(message["wished"])
        if wished != self._wished:  # a message of its own may overtake the trait
            self._wished = wished
        if not wished:
            self._say("There is nothing to apply: it is all so already.")
            return
        count = len(wished)
        self.apply()
        self._say(f"Applied. As the kernel says: {len(self._marks)} of {count} row{'s' * (count != 1)} as planned.", "good")

    def _pressed_undo(self, message: dict) -> None:
        self.refresh()  # what was asked was about the step that was the last one then
        forced = self._ask == "undo"
        try:
            count = self.undo(force=forced)
        except PinError as error:
            self._ask = "" if forced else "undo"
            raise PinError(f"{error}{'' if forced else ' Press Undo once more to overwrite it.'}") from error
        self._say(f"{count} pin{'s' * (count != 1)} put back." if count else "There is nothing to undo.", "good")

    def _pressed_plan(self, message: dict) -> None:
        try:
            self.plan(str(message.get("strategy")))
        except KvmlabError:
            self._wished = {}  # or Apply would do what an earlier planner proposed
            raise

    def _say(self, text: str, tone: str = "plain") -> None:
        if text or self._status:
            self._status = {"text": text, "tone": tone, "count": self._status.get("count", 0) + 1} if text else {}

    # ---- the linter

    def _judge_soon(self) -> None:
        """After a moment of quiet; nothing waits for it."""
        if self._loop is None:
            return
        if self._judging:
            self._judging.cancel()
        self._judging = self._loop.call_later(_LINT_AFTER_S, self._judge)

    def _judge(self) -> None:
        self._judging, self._judged = None, time.monotonic()
        try:
            plan = self.lab.plan(self.wishes())
            commands = plan.commands()
        except KvmlabError as error:
            self._told = {**self._told, "error": str(error), "commands": [], "for": dict(self._wished)}
            return
        if not self._wished and self._marks:  # after Apply they stay, to be copied
            commands = self._told.get("commands", [])
        reasons = self._reasons[1] if self._reasons[0] == self._wished else []
        self._told = {**self._told, "error": "", "commands": commands, "reasons": reasons, "for": dict(self._wished)}
        if self._linting:
            self._linting.cancel()
        self._linting = self._loop.create_task(self._lint(plan.pins, dict(self._wished)))

    async def _lint(self, pins: tuple[Pin, ...], wished: dict[str, str]) -> None:
        """In a thread, for a scene takes a tenth of a second; the Lab itself is used by this one."""
        with suppress(KvmlabError):
            messages = await asyncio.to_thread(judge.messages, self._aside, pins)
            if wished == self._wished:
                self._told = {**self._told, "messages": messages, "linted": wished}

    # ---- where no JavaScript runs

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        from kvmlab import plots

        if not self._reader.window.busy().any():  # shown at once: then a tenth of a second has to do
            time.sleep(0.1)
            self.refresh()
        table = self.table()
        picture = io.BytesIO()
        axes = plots.pins(table)
        axes.figure.savefig(picture, format="png", dpi=80)
        plots.style.plt.close(axes.figure)
        text = f"{self!r}\n{plots.pins_in_words(table)}"
        return bundle[0] | {"text/plain": text, "image/png": base64.b64encode(picture.getvalue()).decode()}, bundle[1]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, KvmlabError) else f"{type(error).__name__}: {error}"


def _are_wishes(wished: object) -> bool:
    """Names of rows with CPU lists, as the page sends them."""
    return isinstance(wished, dict) and all(isinstance(text, str) for pair in wished.items() for text in pair)
