"""Controls for notebooks, thin over calls that can be typed as well. Nothing imports this but the face."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Callable
from contextlib import suppress

import ipywidgets as ipw

from kvmlab import measure
from kvmlab.columns import frame
from kvmlab.errors import KvmlabError
from kvmlab.guest import vcpus
from kvmlab.guest.pinning import EMULATOR
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus
from kvmlab.lab import Lab

_HZ = 10
_GOOD, _BAD = "#2da44e", "#e5534b"  # readable in light and dark


def ask(question: str, low: float, high: float, default: float | None = None) -> ipw.FloatSlider:
    """A slider for a prediction; ``.value`` is the reader's guess, the middle until it is moved."""
    value = (low + high) / 2 if default is None else default
    layout = ipw.Layout(width="95%", max_width="640px")
    return ipw.FloatSlider(
        value, min=low, max=high, step=(high - low) / 100, description=question, style={"description_width": "initial"}, layout=layout
    )


def vary(experiment: Callable[..., object], **sliders: tuple[int, int, int]) -> ipw.interactive:
    """Sliders over a function that takes seconds: it runs at once, and again whenever one of them is let go.

    Parameters
    ----------
    experiment : callable
        What it draws and prints stands below the sliders, and so does a KvmlabError that it raises.
    **sliders : (int, int, int)
        Argument by argument, the least, the most, and the first value.

    Examples
    --------
    >>> vary(lambda guests: plots.waits(measure.overcommit(lab, guests)), guests=(1, 8, 4))       # doctest: +SKIP
    """

    def run(**values: int) -> None:
        try:
            experiment(**values)
        except KvmlabError as error:
            print(error)

    look = {"continuous_update": False, "style": {"description_width": "initial"}, "layout": ipw.Layout(width="95%", max_width="640px")}
    controls = {name: ipw.IntSlider(first, least, most, description=name, **look) for name, (least, most, first) in sliders.items()}
    return ipw.interactive(run, **controls)


class PinGrid(ipw.VBox):
    """Rows: vCPUs and emulators of the running guests. Columns: host CPUs. A pressed switch means "may run here".

    The number on a switch is the share of its running time that the vCPU really spent there in the last second. Apply
    makes the kernel agree with the switches (``lab.plan(...).apply()``), Undo takes the last Apply back (``lab.undo()``),
    and below stand the virsh lines that would do the same.

    ``switches[("c1", 0)][1]`` is the switch of c1's vCPU 0 on host CPU 1.
    """

    def __init__(self, lab: Lab):
        self.lab, self.cpus = lab, online_cpus(vcpus.ROOT)
        self.switches: dict[tuple[str, int | str], dict[int, ipw.ToggleButton]] = {}
        self._kernel: dict[tuple[str, int | str], tuple[int, ...]] = {}
        self._quiet = False
        self.apply_button = _button("Apply", "Make the kernel agree with the switches", self._apply, "primary")
        self.undo_button = _button("Undo", "Take the last Apply back", self._undo)
        self.message = ipw.HTML()
        self.commands = ipw.HTML()
        self._grid = ipw.GridBox(layout=ipw.Layout(grid_gap="3px 6px", width="max-content", overflow="visible"))
        super().__init__([self._grid, ipw.HBox([self.apply_button, self.undo_button]), self.message, self.commands])
        self._read(keep_wishes=False)
        with suppress(RuntimeError):  # no event loop, as in a plain script: the switches work, nothing moves by itself
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    # ---- what is there

    def _read(self, keep_wishes: bool = True) -> None:
        """Read the kernel's affinities; build the grid anew if guests came or went. Rows with a wish keep it."""
        processes = self.lab.processes()
        now = {(p.guest, vcpu): _allowed([tid]) for p in processes for vcpu, tid in sorted(p.vcpus.items())}
        now |= {(p.guest, EMULATOR): _allowed(p.emulator) for p in processes}
        now = {key: cpus for key, cpus in sorted(now.items(), key=_order) if cpus}
        kept = self.wishes() if keep_wishes else {}
        if list(now) != list(self.switches):
            self._build(list(now))
        elif now == self._kernel and keep_wishes:
            return
        self._kernel, self._quiet = now, True
        for key in now.keys() - kept.keys():
            for cpu, switch in self.switches[key].items():
                switch.value = cpu in now[key]
        self._quiet = False
        self._show_plan()

    def _build(self, keys: list[tuple[str, int | str]]) -> None:
        self.switches = {key: {cpu: self._switch(key, cpu) for cpu in self.cpus} for key in keys}
        heads = [ipw.Label("may run on"), *(ipw.Label(f"CPU {cpu}") for cpu in self.cpus)]
        cells = [cell for key, row in self.switches.items() for cell in (ipw.Label(_name(key)), *row.values())]
        self._grid.layout.grid_template_columns = f"120px repeat({len(self.cpus)}, 72px)"
        self._grid.children = [*heads, *cells] if keys else [ipw.Label("No guest runs: lab.start('c1', vcpus=2) starts one.")]

    def _switch(self, key: tuple[str, int | str], cpu: int) -> ipw.ToggleButton:
        switch = ipw.ToggleButton(tooltip=f"{_name(key)} may run on CPU {cpu}", layout=ipw.Layout(width="72px"))
        switch.add_class("kvmlab-switch")
        switch.observe(lambda _change: self._show_plan(), "value")
        return switch

    # ---- what is wished

    def wishes(self) -> dict[tuple[str, int | str], str]:
        """The rows whose switches differ from the kernel, as ``lab.plan`` takes them."""
        pressed = {key: tuple(cpu for cpu, switch in row.items() if switch.value) for key, row in self.switches.items()}
        return {key: cpulist.format(cpus) for key, cpus in pressed.items() if cpus != self._kernel.get(key, cpus)}

    def _show_plan(self) -> None:
        if self._quiet:
            return
        wishes = self.wishes()
        for key, row in self.switches.items():
            for cpu, switch in row.items():
                differs = switch.value != (cpu in self._kernel.get(key, ()))
                switch.button_style = "warning" if differs else "info" if switch.value else ""
        self.apply_button.description = f"Apply {len(wishes)} change{'s' * (len(wishes) != 1)}" if wishes else "Apply"
        try:
            lines, problem = self.lab.plan(wishes).commands() if wishes else [], None
        except KvmlabError as error:
            lines, problem = [], error
        self.apply_button.disabled = not wishes or problem is not None
        self.message.value = _note(str(problem), _BAD) if problem else _note("Not applied yet.") if wishes else ""
        if wishes:  # after Apply they stay, to be copied
            self.commands.value = f"<pre style='margin:0'>{html.escape(chr(10).join(lines))}</pre>"

    def _apply(self, _button: ipw.Button) -> None:
        wishes = self.wishes()
        placed = "; ".join(f"{_name(key)} on CPU {cpus}" for key, cpus in wishes.items())
        self._do(lambda: self.lab.plan(wishes).apply(), lambda _: f"As the kernel says: {placed}.")

    def _undo(self, _button: ipw.Button) -> None:
        self._do(self.lab.undo, lambda count: f"{count} pin{'s' * (count != 1)} put back." if count else "There is nothing to undo.")

    def _do(self, deed, said) -> None:
        try:
            words, colour = said(deed()), _GOOD
        except KvmlabError as error:
            words, colour = str(error), _BAD
        with suppress(KvmlabError):
            self._read(keep_wishes=False)
        self.message.value = _note(words, colour)

    # ---- what really happens

    async def _watch(self) -> None:
        """Every second, write the last second's residency on the switches; ends with the Lab or the widget."""
        while self.comm is not None:
            rows = []
            try:
                for _ in range(_HZ + 1):
                    rows += [row for process in self.lab.processes() for row in vcpus.rows(process)]
                    await asyncio.sleep(1 / _HZ)
                self._read()
            except KvmlabError as error:
                self.message.value = _note(str(error))
                return
            self._show_residency(rows)

    def _show_residency(self, rows: list[tuple]) -> None:
        where = measure.residency(frame(rows, "vcpus"))
        shares = {(r.guest, r.vcpu, r.cpu): r.share for r in where.itertuples()}
        for (guest, who), row in self.switches.items():
            for cpu, switch in row.items():
                share = shares.get((guest, who, cpu))
                switch.description = f"{100 * share:.0f} %" if isinstance(share, float) and share >= 0.005 else ""


def _allowed(tids: list[int]) -> tuple[int, ...]:
    """The host CPUs that any of these threads may use; none if they are gone."""
    cpus: set[int] = set()
    for tid in tids:
        with suppress(ProcessLookupError):
            cpus |= os.sched_getaffinity(tid)
    return tuple(sorted(cpus))


def _order(item: tuple) -> tuple:
    (guest, who), _ = item
    return guest, who == EMULATOR, 0 if who == EMULATOR else who


def _name(key: tuple[str, int | str]) -> str:
    guest, who = key
    return f"{guest} {who}" if who == EMULATOR else f"{guest} vCPU {who}"


def _button(description: str, tooltip: str, action, style: str = "") -> ipw.Button:
    button = ipw.Button(description=description, tooltip=tooltip, button_style=style)
    button.on_click(action)
    return button


def _note(text: str, colour: str = "inherit") -> str:
    return f"<span role='status' style='color:{colour}'>{html.escape(text)}</span>"
