"""What the pin canvas costs, in JupyterLab and Chromium: `./lab run python bench/canvas.py`. It prints figures; no test asserts them.

The kernel's CPU time and the bytes on its web socket, while somebody looks; and Apply clicked in Chromium to the affinity changed
in /proc. A machine with 64 or 256 CPUs is made up: for that the reading of real threads (the first figures) is to be added.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median, quantiles

import psutil
import pytest

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]
pytest_plugins = ["tests.conftest", "tests.browser.conftest"]
SECONDS, CLICKS = 10, 20

GUESTS = """
from kvmlab import Lab
lab = Lab()
for number in range({guests}):
    lab.start(f"bench-canvas-{{number}}", vcpus={vcpus})
lab.pin_widget()
"""
DRAWN = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.drawn import drawn
drawn({{cpus}}, {{guests}}, 4)
"""


def kernel_of(server, name: str) -> psutil.Process:
    (session,) = [one for one in server.ask("api/sessions") if one["path"] == f"{name}.ipynb"]
    word = session["kernel"]["id"]
    return next(process for process in psutil.process_iter(["cmdline"]) if any(word in part for part in process.info["cmdline"] or ()))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"a guest of 16 vCPUs x {os.cpu_count()} CPUs", GUESTS.format(guests=1, vcpus=16)),
        (f"8 guests of 2 vCPUs x {os.cpu_count()} CPUs", GUESTS.format(guests=8, vcpus=2)),
        ("16 vCPUs x 64 CPUs, made up", DRAWN.format(cpus=64, guests=4)),
        ("64 vCPUs x 256 CPUs, made up", DRAWN.format(cpus=256, guests=16)),
    ],
)
def test_cost(server, opened, name, code):
    page = opened(f"cost{abs(hash(name))}", code)
    page.locator(".kl-pins").wait_for()
    received = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.webSocketFrameReceived", lambda event: received.append(len(event["response"]["payloadData"]) * 3 / 4))
    page.wait_for_timeout(3000)
    kernel = kernel_of(server, f"cost{abs(hash(name))}")
    begin, used = time.monotonic(), cpu_s(kernel)
    received.clear()
    page.wait_for_timeout(1000 * SECONDS)
    passed = time.monotonic() - begin
    share, count = (cpu_s(kernel) - used) / passed, len(received)
    drawing = page.evaluate(
        "() => { const view = document.querySelector('.kl-pins').kvmlab, t = performance.now();"
        " for (let i = 0; i < 20; i++) { view.fresh(); view.draw(); } return (performance.now() - t) / 20; }"
    )
    print(
        f"\n{name}: kernel {100 * share:.1f} % of a CPU; {sum(received) / passed / 1024:.1f} KiB a second in {count / passed:.1f} frames; "
        f"{drawing:.1f} ms a picture"
    )
    kernel.terminate()  # its guests go with it
    page.close()


def test_clicks(server, opened):
    page = opened("clicks", GUESTS.format(guests=1, vcpus=2))
    page.locator(".kl-pins").wait_for()
    page.wait_for_timeout(2000)
    pid = next(p.pid for p in psutil.process_iter(["cmdline"]) if "guest=bench-canvas-0,debug-threads=on" in (p.info["cmdline"] or ()))
    tid = next(int(t.name) for t in Path(f"/proc/{pid}/task").iterdir() if (t / "comm").read_text().startswith("CPU 0/"))
    taken = []
    for number in range(CLICKS):
        place = page.evaluate("cpu => document.querySelector('.kl-pins').kvmlab.cellBox('bench-canvas-0 vCPU 0', cpu)", 0)
        page.mouse.click(place["x"], place["y"])
        apply = page.locator(".kl-apply").bounding_box()
        page.wait_for_timeout(150 if number % 2 else 600)  # before the linter has spoken, and after
        before = os.sched_getaffinity(tid)
        page.mouse.move(apply["x"] + 9, apply["y"] + 9)
        page.mouse.down()
        begin = time.perf_counter()
        page.mouse.up()  # Chromium's click happens while this call is on its way back
        while os.sched_getaffinity(tid) == before and time.perf_counter() - begin < 5:
            time.sleep(0.0005)
        taken.append(1e3 * (time.perf_counter() - begin))
        page.wait_for_timeout(400)
    low, *_, high = quantiles(taken, n=10)
    print(f"\nApply clicked -> affinity changed: median {median(taken):.0f} ms, 10 to 90 % {low:.0f} to {high:.0f} ms, {len(taken)} clicks")


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-sq", "-p", "no:cacheprovider"]))
