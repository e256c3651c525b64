"""A pin canvas of a host that is not this machine, with guests that are not there: for pictures, and for what drawing costs."""

import random
from pathlib import Path

import numpy as np

from kvmlab import Host
from kvmlab.widgets import PinCanvas, model
from kvmlab.widgets.model import Row, Used, Window
from tests.plots.made import machine

HOSTS = Path(__file__).parent / "hosts"
SECONDS = 5


class Still:
    """What a Reader knows, without a machine: `read` lets another fifth of a second go by."""

    def __init__(self, cpus: list[int], guests: int, vcpus: int = 3):
        self.window, self.cpus, self.chance, self.now = Window(cpus), cpus, random.Random(1), 0.0
        share = max(1, len(cpus) // guests)
        self.rows = []
        for guest in range(guests):
            mine = f"{guest * share}-{guest * share + share - 1}"
            everywhere = f"0-{len(cpus) - 1}"
            pinned = [
                str(cpus[guest * share + vcpu]) if guest % 3 == 0 else mine if guest % 3 == 1 else everywhere for vcpu in range(vcpus)
            ]
            self.rows += [Row((f"g{guest}", vcpu), f"vCPU {vcpu}", "vcpu", cpu) for vcpu, cpu in enumerate(pinned)]
            self.rows.append(Row((f"g{guest}", "emulator"), "emulator", "emulator", mine))
        for _ in range(round(SECONDS / 0.2)):
            self.read()

    def read(self) -> None:
        self.now += 0.2
        used, busy = {}, np.zeros(len(self.cpus))
        for row in self.rows:
            low, _, high = row.allowed.partition("-")
            cpu = self.chance.randint(int(low), min(int(high or low), int(low) + 3))
            ran, wait = self.chance.random() * 0.2 * (row.kind == "vcpu"), self.chance.random() * 0.03
            used[row.name] = [Used(cpu, ran, wait, 0.9 * ran, 0.02 * ran, 0.08 * ran, self.chance.randint(0, 1))]
            busy[self.window.place[cpu]] = min(1.0, 5 * ran + 0.05)
        self.window.add(self.now, 0.2, used, busy)

    def close(self) -> None:
        pass


class NoLab:
    """As much of a Lab as the canvas asks for."""

    undoable, uri, accel = 0, "a recorded host", "kvm"

    def plan(self, pins: dict):
        class Plan:
            pins = ()
            commands = staticmethod(list)

        return Plan()


class Drawn(PinCanvas):
    def __init__(self, host: dict, guests: int, vcpus: int):
        self._drawn = host, guests, vcpus
        super().__init__(NoLab())

    def _begin(self) -> None:
        host, guests, vcpus = self._drawn
        self._host, self._online = host, None
        self._reader = Still([cpu["cpu"] for cpu in host["cpus"]], guests, vcpus)

    def _changed_host(self) -> bool:
        return False

    async def _lint(self, *_: object) -> None:
        pass


def drawn(cpus: int | str, guests: int, vcpus: int = 3) -> Drawn:
    """The name of a recorded host, or how many CPUs a made one of 4 nodes has."""
    if isinstance(cpus, str):
        host = Host.open(HOSTS / f"{cpus}.tar.xz")
        frames = host.cpus(), host.caches(), host.nodes()
    else:
        frames = machine(4, 1, 2, cpus // 16, 2, isolated=set(range(cpus - 8, cpus)))
    return Drawn(model.columns(*frames), guests, vcpus)
