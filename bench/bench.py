"""kvmlab beside its peers, in one run: `./lab run python bench/bench.py`; threads are in bench/threads.py. No test asserts the ratios."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from kvmlab import Lab
from kvmlab.guest.spec import GuestSpec


def seconds(deed: Callable[[], object], repeats: int) -> float:
    """The median of a few runs."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        deed()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def command(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run(words, check=True, capture_output=True)


def report(what: str, ours: float, peer: str, theirs: float, wanted: str) -> None:
    print(
        f"{what:44} {1e3 * ours:9.2f} ms   {peer:34} {1e3 * theirs:9.2f} ms   ratio {ours / theirs:6.2f}   (wanted: {wanted})", flush=True
    )


def imports() -> None:
    code = "import time; t = time.perf_counter(); import kvmlab; print(time.perf_counter() - t)"
    run = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(9)]
    report("import kvmlab", median(run), "50 ms", 0.05, "under 1")


def first_guest() -> None:
    begin = time.perf_counter()
    with Lab() as lab:
        lab.start("bench-first").work("spin")
        taken = time.perf_counter() - begin
    report("Lab() to the first guest counting, cached", taken, "1 s", 1.0, "under 1")


def first_guest_uncached() -> None:
    """A process whose libvirt finds an empty cache: another user's session, with folders of its own (as root only)."""
    if os.geteuid():
        return
    with tempfile.TemporaryDirectory(prefix="kvmlab-", dir="/tmp") as home:
        os.chown(home, 65534, 65534)
        code = "import time; t = time.perf_counter()\nfrom kvmlab import Lab\nwith Lab() as lab:\n    lab.start('bench').work('spin')\n"
        code += "    print(time.perf_counter() - t)"
        words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
        environment = {**os.environ, "HOME": home, "PYTHONPATH": str(Path(__file__).parent.parent)}
        run = subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/")
        for process in psutil.process_iter(["name", "uids"]):
            if process.info["name"] in ("libvirtd", "virtlogd") and process.info["uids"].real == 65534:
                process.terminate()
                process.wait(10)
    if run.returncode == 0:
        report("first guest, nothing cached (imports too)", float(run.stdout), "5 s", 5.0, "under 1")
    else:
        print(f"first guest, nothing cached: could not run as another user: {run.stderr.strip().splitlines()[-1:]}")


def starts(lab: Lab) -> None:
    names = iter(range(1000))

    def ours() -> None:
        lab.start(f"bench-a{next(names)}", vcpus=2)

    with tempfile.TemporaryDirectory() as folder:

        def theirs() -> None:
            name = f"bench-b{next(names)}"
            path = Path(folder, name)
            path.write_text(GuestSpec(name, 2, lab.accel, str(lab._image)).xml())
            subprocess.run(["virsh", "create", str(path)], check=True, capture_output=True)

        report("lab.start, a further guest", seconds(ours, 7), "virsh create of the same XML", seconds(theirs, 7), "under 1.5")
    for domain in lab._domains():
        if domain.name().startswith("bench-b"):
            domain.destroy()


def pins(lab: Lab) -> None:
    lab.start("bench-pin", vcpus=2)
    cpus = iter("01" * 100 if len(os.sched_getaffinity(0)) > 1 else "0" * 200)
    plans = iter([lab.plan({("bench-pin", 0): next(cpus)}) for _ in range(50)])
    ours = seconds(lambda: next(plans).apply(), 30)
    theirs = seconds(lambda: subprocess.run(["virsh", "vcpupin", "bench-pin", "1", next(cpus)], check=True, capture_output=True), 30)
    report("plan.apply() of one pin, read back", ours, "virsh vcpupin", theirs, "under 0.2")


if __name__ == "__main__":
    imports()
    first_guest()
    first_guest_uncached()
    with Lab() as lab:
        print(lab)
        starts(lab)
        pins(lab)
