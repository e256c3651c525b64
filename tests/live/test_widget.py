"""The pin canvas without a browser: what it shows is the kernel, what it does is lab.plan and lab.undo."""

import asyncio
import base64
import os
import subprocess

import pytest

from kvmlab import KvmlabError, cpulist
from kvmlab.errors import PinError, PlanError
from kvmlab.widgets import PinCanvas, ask
from tests.conftest import need

CPUS = sorted(os.sched_getaffinity(0))
ALL = cpulist.format(CPUS)


@pytest.fixture
def canvas(lab):
    if len(CPUS) == 1:
        need("one CPU: nothing can be changed")
    lab.start("kl-pins", vcpus=2, devices="all").work("spin")
    return lab.pin_widget()


def allowed(canvas: PinCanvas) -> dict[str, str]:
    canvas.refresh()
    return {row["id"]: row["allowed"] for row in canvas._rows if row["guest"] == "kl-pins"}


def test_wishes_change_nothing_apply_does_and_undo_takes_it_back(lab, canvas):
    assert list(allowed(canvas)) == ["kl-pins vCPU 0", "kl-pins vCPU 1", "kl-pins emulator", "kl-pins I/O thread 1"]
    assert set(allowed(canvas).values()) == {ALL} and not canvas.wishes()
    wish = {("kl-pins", 0): str(CPUS[0]), ("kl-pins", "emulator"): str(CPUS[1]), ("kl-pins", "iothread 1"): str(CPUS[1])}
    canvas.wish(wish | {("kl-pins", 1): ALL})  # what is so already is no wish
    assert canvas.wishes() == wish and set(allowed(canvas).values()) == {ALL}
    canvas.apply()
    process = lab.process("kl-pins")
    assert os.sched_getaffinity(process.vcpus[0]) == {CPUS[0]} and os.sched_getaffinity(process.vcpus[1]) == set(CPUS)
    assert all(os.sched_getaffinity(tid) == {CPUS[1]} for tid in process.emulator + process.iothreads)
    assert not canvas.wishes() and canvas._marks["kl-pins vCPU 0"] == str(CPUS[0])
    assert canvas.undo() == 3 and set(allowed(canvas).values()) == {ALL} and not canvas._marks


def test_what_cannot_be_is_said_and_changes_nothing(lab, canvas):
    with pytest.raises(PlanError, match=r"no row \('kl-pins', 7\): it has \('kl-pins', 0\)"):
        canvas.wish({("kl-pins", 7): "0"})
    canvas.wish({("kl-pins", 0): str(CPUS[0]), ("kl-pins", 1): ""})
    with pytest.raises(PlanError, match="an empty CPU set"):
        canvas.apply()
    assert set(allowed(canvas).values()) == {ALL} and len(canvas.wishes()) == 2


def test_another_tools_pin_stops_apply_once_and_undo_until_forced(lab, canvas):
    def virsh(cpus: str) -> None:
        subprocess.run(["virsh", "-c", lab.uri, "vcpupin", "kl-pins", "0", cpus, "--live"], check=True, capture_output=True)

    canvas.wish({("kl-pins", 0): str(CPUS[0])})
    virsh(str(CPUS[1]))
    with pytest.raises(PinError, match=f"kl-pins vCPU 0 may run on CPU {CPUS[1]} now"):
        canvas.apply()
    assert allowed(canvas)["kl-pins vCPU 0"] == str(CPUS[1]) and canvas.wishes()
    canvas.apply()
    assert allowed(canvas)["kl-pins vCPU 0"] == str(CPUS[0])
    virsh(ALL)
    with pytest.raises(PinError):
        canvas.undo()
    assert canvas.undo(force=True) == 1 and allowed(canvas)["kl-pins vCPU 0"] == str(CPUS[1])


def test_apply_twice_is_one_step_and_says_so(lab, canvas):
    message = {"do": "apply", "wished": {"kl-pins vCPU 0": str(CPUS[0])}}
    for words in ("1 of 1 row as planned", "nothing to apply"):
        canvas._heard(canvas, message, [])
        assert words in canvas._status["text"]
    canvas.wish({("kl-pins", 0): ALL})
    lab.plan({("kl-pins", 0): ALL}).apply()
    canvas.apply()  # it came true by itself
    assert lab.undoable == 2 and lab.undo() == 1
    canvas._heard(canvas, {"do": "undo"}, [])
    assert lab.undoable == 0 and allowed(canvas)["kl-pins vCPU 0"] == ALL


def test_wishes_that_arrive_after_their_apply_leave_what_it_said(lab, canvas):
    wished = {"kl-pins vCPU 0": str(CPUS[0])}
    canvas._heard(canvas, {"do": "apply", "wished": wished}, [])
    said, marks = canvas._status["text"], canvas._marks
    canvas._wished = wished  # the page holds traits back while the kernel is busy, and messages not
    assert said.startswith("Applied.") and canvas._status["text"] == said and canvas._marks == marks and not canvas._wished
    canvas._wished = {"kl-pins vCPU 0": ALL}  # a wish of its own ends the words
    assert not canvas._status and not canvas._marks and canvas.wishes() == {("kl-pins", 0): ALL}


def test_undo_is_forced_only_of_the_step_that_it_was_asked_for(lab, canvas):
    for cpus in (str(CPUS[1]), ALL):
        lab.plan({("kl-pins", 0): CPUS[0]}).apply()
        subprocess.run(["virsh", "-c", lab.uri, "vcpupin", "kl-pins", "0", cpus, "--live"], check=True, capture_output=True)
        canvas._heard(canvas, {"do": "undo"}, [])
        assert canvas._ask == "undo" and "once more" in canvas._status["text"]
        assert allowed(canvas)["kl-pins vCPU 0"] == cpus
    canvas._heard(canvas, {"do": "undo"}, [])
    assert lab.undoable == 1 and allowed(canvas)["kl-pins vCPU 0"] == str(CPUS[1])


def test_in_a_notebook_it_follows_the_kernel_lints_and_ends_with_the_lab(lab, canvas):
    async def watch() -> PinCanvas:
        seen = lab.pin_widget()
        seen.wish({("kl-pins", 0): str(CPUS[0]), ("kl-pins", 1): str(CPUS[0])})
        for _ in range(50):
            await asyncio.sleep(0.2)
            if seen._told.get("linted") == seen._wished:
                break
        lab.plan({("kl-pins", 0): CPUS[0]}).apply()  # the wish comes true by itself
        await asyncio.sleep(1)
        assert list(seen._wished) == ["kl-pins vCPU 1"]
        assert [line for line in seen._told["commands"] if "virsh" in line] == seen._told["commands"] != []
        lab.close()
        await asyncio.sleep(1.5)
        return seen

    seen = asyncio.run(watch())
    assert any(message["rule"] == "busy-vcpus-stacked" and message["state"] == "new" for message in seen._told["messages"])
    assert "closed" in seen._ended


def test_of_another_labs_guest_it_only_watches(lab, canvas):
    from kvmlab import Lab

    with Lab() as other:
        rows = {row["id"]: row["locked"] for row in other.pin_widget()._rows}
        assert "only watched here" in rows["kl-pins vCPU 0"]


def test_where_no_javascript_runs_there_are_a_picture_and_words(canvas):
    bundle = canvas._repr_mimebundle_()[0]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert f"kl-pins vCPU 0: may run on CPU {ALL}" in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_planner_that_refuses_leaves_no_earlier_plan_to_be_applied(lab, canvas):
    canvas.wish({("kl-pins", 0): str(CPUS[0])})
    canvas._heard(canvas, {"do": "plan", "strategy": "another"}, [])
    assert canvas.wishes() == {} and "no strategy 'another'" in canvas._status["text"]


def test_a_closed_lab_is_said(lab, canvas):
    lab.close()
    with pytest.raises(KvmlabError, match="closed"):
        canvas.apply()


def test_a_prediction_has_a_value_without_a_browser():
    assert ask("moves a second", 0, 20).value == 10
    assert ask("checks", 0, 25).value == 12 and ask("exits a second", 0, 5000).step == 50
