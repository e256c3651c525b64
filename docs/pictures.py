"""Takes every picture of docs/ anew: `./lab pictures`. The canvas is a real one, on real guests, in JupyterLab in Chromium."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
from playwright.sync_api import sync_playwright

from kvmlab import Host, Lab, cpulist, measure, plots
from tests.browser.conftest import QUIET, new_server, open_notebook, served  # the tests' JupyterLab and Chromium

DOCS = Path(__file__).resolve().parent

GUESTS = """
from kvmlab import Lab
lab = Lab()
lab.start("web", vcpus=2).work("spin")
db = lab.start("db", devices="all")
db.work("duty", parameter=80)
pins = lab.pin_widget()
pins
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./lab pictures", description=__doc__.partition(":")[0])
    parser.add_argument("-o", "--out", type=Path, default=DOCS, metavar="FOLDER", help="by default docs")
    out = parser.parse_args().out
    matplotlib.use("agg")
    for take in (machine, placement, pin_canvas):
        print(take(out / f"{take.__name__}.png"))
    return 0


def machine(path: Path) -> str:
    """A recorded machine, drawn."""
    host = Host.open(DOCS.parent / "tests/hosts/x86_64-2n2s4c2t-offline.tar.xz")
    cpus, caches, nodes = host.cpus(), host.caches(), host.nodes()
    _save(
        plots.machine(cpus, caches, nodes, title="2 sockets, 7 cores of 1 or 2 threads, 12 CPUs online (CPUs 3,8-9,14 offline)"), path, 110
    )
    return f"{path}: {plots.machine_in_words(cpus, caches, nodes)}"


def placement(path: Path) -> str:
    """Three busy vCPUs on two CPUs, for five seconds."""
    two = cpulist.format(sorted(os.sched_getaffinity(0))[:2])
    with Lab() as lab:
        c1, c2 = (lab.start(name, vcpus=2) for name in ("c1", "c2"))
        lab.plan({(guest.name, vcpu): two for guest in (c1, c2) for vcpu in (0, 1)}).apply()
        c1.work("spin")
        c2.work("spin", vcpus=0)
        samples = lab.sample(seconds=5)
    samples = samples[samples.guest.isin(["c1", "c2"])]
    _save(plots.placement(samples, "Three busy vCPUs on two CPUs, floating"), path, 90)
    return f"{path}: {measure.in_words(samples)}"


def _save(axes, path: Path, dpi: int) -> None:
    axes.figure.savefig(path, dpi=dpi)
    plots.style.plt.close(axes.figure)


def pin_canvas(path: Path) -> str:
    """Two guests, three wishes, and what the linter says of them before they are applied."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, "--no-sandbox"])
        work = Path(folder, "work")
        work.mkdir()
        with served(new_server(work)) as server:
            page = open_notebook(server, browser, "picture", GUESTS, width=1180)
            canvas = page.locator(".kl-pins").first
            canvas.get_by_text("live, last 5 s").wait_for()
            for row, cpu in (("web vCPU 0", 1), ("web vCPU 1", 1), ("db emulator", 0)):
                place = canvas.evaluate("(root, [row, cpu]) => root.kvmlab.cellBox(row, cpu)", [row, cpu])
                page.mouse.click(place["x"], place["y"])
            canvas.get_by_text("busy-vcpus-stacked").first.wait_for()
            time.sleep(5)  # a window full of these
            canvas.screenshot(path=path)
            words = canvas.get_by_text("busy-vcpus-stacked").first.locator("..").inner_text()
        browser.close()
    return f"{path}: {words}"


if __name__ == "__main__":
    sys.exit(main())
