"""Which models start where, beside libvirt: `./lab run python bench/models.py`. It prints ratios; no test asserts them.

The peer is libvirt's own compareCPU, which answers for one model and its own host: as many questions as the matrix has cells.
Where libvirt has fewer than 100 models, some are asked for twice.
"""

from __future__ import annotations

import subprocess
import sys

from bench import report, seconds
from kvmlab import Lab, models
from kvmlab.guest import cpumap
from kvmlab.guest.host_cpu import Cpu
from kvmlab.host.host import Host

MODELS, HOSTS = 100, 30
FIRST = "import time; from kvmlab.guest import cpumap; t = time.perf_counter(); cpumap.load(); print(time.perf_counter() - t)"


def main() -> None:
    first = float(subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True).stdout)
    report("cpumap.load(), the first time", first, "1 s", 1.0, "under 1")
    known = list(cpumap.load().models())
    names = (known * (MODELS // len(known) + 1))[:MODELS]
    made_up = {f"host {number}": Cpu.of_model(known[-1 - number % len(known)]) for number in range(HOSTS)}
    real = {f"host {number}": Host() for number in range(HOSTS)}
    questions = [f"<cpu mode='custom' match='exact'><model>{name}</model></cpu>" for name in names]
    with Lab(accel="tcg") as lab:
        theirs = HOSTS * seconds(lambda: [lab.connection.compareCPU(question) for question in questions], 5)
        what = f"compareCPU, {MODELS * HOSTS} times"
        report(f"will_start, {MODELS} x {HOSTS}", seconds(lambda: models.will_start(names, made_up), 5), what, theirs, "under 1 s, and 1")
        report("the same, /proc/cpuinfo of 30 live hosts read", seconds(lambda: models.will_start(names, real), 5), what, theirs, "under 1")
        pair = [Cpu.of_model("IvyBridge"), Cpu.of_model("Skylake-Server")]
        asked = [cpu.xml for cpu in pair]
        peer = seconds(lambda: lab.connection.baselineCPU(asked), 9)
        report("baseline of two hosts", seconds(lambda: models.baseline(pair), 9), "baselineCPU", peer, "under 5")
    report(f"will_migrate, {HOSTS} hosts", seconds(lambda: models.will_migrate(made_up), 5), "1 s", 1.0, "under 1")


if __name__ == "__main__":
    main()
