"""The pin canvas in JupyterLab in a real Chromium, on real guests; what may run where is read from /proc by the test.

Screenshots are written to out/ for a person to look at.
"""

import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from kvmlab.guest.microguest.page import wait_until
from tests.browser.conftest import OUT, PATIENCE_S
from tests.conftest import REPOSITORY, need

START = """
from kvmlab import Lab
lab = Lab()
c1 = lab.start("kb-c1", vcpus=2)
c1.work("spin")
db = lab.start("kb-db", devices="all")
db.work("spin")
pins = lab.pin_widget()
pins
"""
CPUS = sorted(os.sched_getaffinity(0))


class Canvas:
    """One view of a canvas on a page."""

    def __init__(self, page: Page, number: int = 0):
        self.page, self.root = page, page.locator(".kl-pins").nth(number)

    def box(self, row: str, cpu: int) -> tuple[float, float]:
        """Where a cell is, once the page has come to rest: themes and widths change it a little later."""
        self.root.scroll_into_view_if_needed()
        places = []
        assert wait_until(lambda: places.append(self._box(row, cpu)) or places[-3:-1] == places[-2:], 10, 0.1)
        return places[-1]

    def _box(self, row: str, cpu: int) -> tuple[float, float]:
        place = self.root.evaluate("(root, [row, cpu]) => root.kvmlab.cellBox(row, cpu)", [row, cpu])
        return place["x"], place["y"]

    def click(self, row: str, cpu: int) -> None:
        self.page.mouse.click(*self.box(row, cpu))

    def drag(self, *cells: tuple[str, int]) -> None:
        self.page.mouse.move(*self.box(*cells[0]))
        self.page.mouse.down()
        for cell in cells[1:]:
            self.page.mouse.move(*self.box(*cell), steps=4)
        self.page.mouse.up()

    def button(self, name: str):
        return self.root.get_by_role("button", name=name)

    def says(self, words: str) -> None:
        expect(self.root.get_by_role("status")).to_contain_text(words)

    def rests(self) -> None:
        """What was asked has its answer: until then Apply, Undo and Plan take nothing."""
        assert wait_until(lambda: self.root.evaluate("root => !root.kvmlab.pending"), PATIENCE_S, 0.05)

    def shows(self, words: str) -> None:
        expect(self.root).to_contain_text(words)

    def focused(self):
        return self.root.locator("[role=gridcell]:focus")


@pytest.fixture(scope="module")
def page(opened) -> Page:
    if len(CPUS) < 2:
        need("one CPU: nothing can be moved")
    page = opened("canvas", START, "pins")
    page.locator(".kl-pins").nth(1).wait_for()
    page.set_default_timeout(15_000)
    yield page
    OUT.mkdir(exist_ok=True)
    page.screenshot(path=OUT / "last.png")  # what it looked like at the end, however it ended
    page.close()


@pytest.fixture
def canvas(page) -> Canvas:
    """As it is at first: nothing wished, nothing applied."""
    canvas = Canvas(page)
    canvas.root.scroll_into_view_if_needed()
    expect(canvas.root.get_by_text("live, last 5 s")).to_be_visible()
    yield canvas
    if canvas.root.count():
        canvas.root.evaluate("root => root.kvmlab.drop()")
        steps = "root => root.kvmlab.model.get('_undo_steps')"
        while canvas.button("Undo").is_enabled():
            before = canvas.root.evaluate(steps)
            canvas.button("Undo").click()
            assert wait_until(lambda n=before: canvas.root.evaluate(steps) < n or ask(canvas), PATIENCE_S, 0.05)
        canvas.rests()


def ask(canvas: Canvas) -> bool:
    return canvas.button("Undo all the same").count() > 0


def thread(guest: str, name: str) -> int:
    """From the kernel alone: the thread of the newest QEMU with that guest's name whose own name begins so."""
    word = f"guest={guest},debug-threads=on"
    found = [process for process in psutil.process_iter(["cmdline", "create_time"]) if word in (process.info["cmdline"] or ())]
    newest = max(found, key=lambda process: process.info["create_time"])
    for one in newest.threads():
        if Path(f"/proc/{newest.pid}/task/{one.id}/comm").read_text().startswith(name):
            return one.id
    raise AssertionError(f"no thread {name} of {guest}")


def allowed(guest: str, name: str) -> set[int]:
    return os.sched_getaffinity(thread(guest, name))


def becomes(guest: str, name: str, cpus: set[int]) -> bool:
    return wait_until(lambda: allowed(guest, name) == cpus, PATIENCE_S, 0.02)


def test_click_lint_apply_marks_and_undo(canvas):
    everywhere = allowed("kb-c1", "CPU 0/")
    canvas.click("kb-c1 vCPU 0", 0)
    canvas.click("kb-c1 vCPU 1", 0)
    canvas.shows("virsh vcpupin kb-c1 0 1")
    canvas.shows("busy-vcpus-stacked")  # what the linter says of two busy vCPUs on one CPU
    assert allowed("kb-c1", "CPU 0/") == everywhere  # not before Apply
    expect(canvas.root.get_by_text("✓ as the kernel says")).to_be_hidden()  # nothing is marked so
    canvas.page.screenshot(path=OUT / "pin_canvas_before_apply.png")
    canvas.button("Apply 2 changes").click()
    assert becomes("kb-c1", "CPU 0/", everywhere - {0}) and becomes("kb-c1", "CPU 1/", everywhere - {0})
    canvas.says("As the kernel says: 2 of 2 rows as planned.")
    canvas.focused().wait_for()
    expect(canvas.root.get_by_role("gridcell", name="kb-c1 vCPU 1, CPU 1, may run")).to_have_attribute(
        "aria-label", re.compile("as applied")
    )
    canvas.page.screenshot(path=OUT / "pin_canvas_applied.png")
    canvas.button("Undo").click()
    assert becomes("kb-c1", "CPU 0/", everywhere) and becomes("kb-c1", "CPU 1/", everywhere)
    canvas.says("2 pins put back.")


def test_a_drag_paints_over_rows_and_a_row_without_a_cpu_cannot_be_applied(canvas):
    canvas.drag(("kb-c1 vCPU 0", 0), ("kb-db vCPU 0", 0))  # over vCPU 1 and the emulator
    expect(canvas.button("Apply 4 changes")).to_be_enabled()
    canvas.drag(("kb-c1 vCPU 0", 1), ("kb-c1 vCPU 1", 1))
    canvas.shows("kb-c1 vCPU 0 has no CPU left")
    expect(canvas.button("Apply 4 changes")).to_be_disabled()
    canvas.page.keyboard.press("Escape")
    expect(canvas.button("Apply")).to_be_disabled()
    canvas.shows("As it is now")


def test_a_double_click_applies_once(canvas):
    everywhere = allowed("kb-c1", "CPU 0/")
    canvas.click("kb-c1 vCPU 0", 0)
    expect(canvas.button("Apply 1 change")).to_be_enabled()
    sent = canvas.root.evaluate("""root => {
        const model = root.kvmlab.model, send = model.send, sent = [];
        model.send = (message) => { sent.push(message.do); return send.call(model, message); };
        for (let n = 0; n < 3; n++) root.kvmlab.press("apply");
        model.send = send;
        return sent;
    }""")
    assert sent == ["apply"]
    canvas.says("1 of 1 row as planned")
    canvas.button("Undo").click()
    assert becomes("kb-c1", "CPU 0/", everywhere)


def test_the_keyboards_cursor_stays_on_its_row_when_others_come_and_go(opened):
    page = opened("rows", LARGE.format(repository=str(REPOSITORY), host="x86_64-1s4c2t-isolated", guests=3))
    canvas = Canvas(page)
    page.locator(".kl-pins").wait_for()
    canvas.click("g2 vCPU 1", 5)
    assert canvas.focused().get_attribute("aria-label").startswith("g2 vCPU 1, CPU 5")
    change = """(root, gone) => {
        const {model} = root.kvmlab;
        model.set("_rows", model.get("_rows").filter((row) => !gone.includes(row.id)));
    }"""  # at once: no news of the kernel's comes between
    canvas.root.evaluate(change, ["g1 vCPU 1", "g1 vCPU 2"])
    assert canvas.focused().get_attribute("aria-label").startswith("g2 vCPU 1, CPU 5")
    canvas.root.evaluate(change, ["g2 vCPU 1"])
    assert canvas.focused().get_attribute("aria-label").startswith("g2 vCPU 2, CPU 5")
    expect(canvas.root.locator(".kl-said")).to_have_text("g2 vCPU 1 is gone. The cursor is on g2 vCPU 2 now.")
    page.close()


def test_by_keyboard_alone_a_cell_says_what_it_is_and_jupyterlab_keeps_its_own_keys(canvas):
    cells, everywhere = canvas.page.locator(".jp-Notebook .jp-Cell").count(), allowed("kb-c1", "CPU 1/")
    canvas.root.locator("[role=gridcell][tabindex='0']").focus()
    for key in ("PageUp", "Home", "ArrowDown", "ArrowRight", "Space"):  # this Lab's guests come first
        canvas.page.keyboard.press(key)
    expect(canvas.focused()).to_have_attribute("aria-selected", "false")
    label = canvas.focused().get_attribute("aria-label")
    assert label.startswith("kb-c1 vCPU 1, CPU 1, may run") and label.endswith("will be taken away")
    canvas.page.keyboard.press("n")
    expect(canvas.button("Apply 1 change")).to_be_disabled()
    for key in ("a", "ArrowLeft", "Space"):
        canvas.page.keyboard.press(key)
    expect(canvas.button("Apply 1 change")).to_be_enabled()
    canvas.page.keyboard.press("Enter")
    assert becomes("kb-c1", "CPU 1/", everywhere - {0})
    canvas.says("1 of 1 row as planned")
    expect(canvas.button("Undo")).to_be_enabled()
    canvas.page.keyboard.press("u")
    assert becomes("kb-c1", "CPU 1/", everywhere)
    assert canvas.page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_two_views_of_one_canvas_stay_in_step(canvas):
    other = Canvas(canvas.page, 1)
    canvas.click("kb-db I/O thread 1", 1)
    expect(other.button("Apply 1 change")).to_be_enabled()
    other.button("Apply 1 change").click()
    assert becomes("kb-db", "IO iothread1", {0})
    canvas.says("1 of 1 row as planned")
    expect(canvas.button("Undo")).to_be_enabled()


def test_a_plan_of_a_planner_can_be_taken_over(canvas):
    canvas.root.get_by_label("Plan: let kvmlab arrange all guests").select_option("spread")
    canvas.says("spread: nothing is changed before Apply.")
    canvas.shows("Why this plan")
    expect(canvas.root.locator(".kl-apply")).to_be_enabled()
    canvas.page.screenshot(path=OUT / "pin_canvas_plan.png")


def virsh(*words: str) -> None:
    subprocess.run(["virsh", *words], check=True, capture_output=True)


def may_run(canvas: Canvas, row: str) -> str:
    rows = canvas.root.evaluate("root => root.kvmlab.rows")
    return next(one["allowed"] for one in rows if one["id"] == row)


def test_another_tools_pin_appears_stops_apply_once_and_undo_asks(canvas):
    canvas.click("kb-c1 vCPU 0", 1)  # wished: all but CPU 1
    canvas.shows("virsh vcpupin kb-c1 0 0")  # so the kernel has the wish, and knows what it was made upon
    virsh("vcpupin", "kb-c1", "0", "1", "--live")
    assert wait_until(lambda: may_run(canvas, "kb-c1 vCPU 0") == "1", PATIENCE_S, 0.05)
    canvas.root.locator(".kl-apply").click()
    canvas.says("Another tool was here meanwhile: kb-c1 vCPU 0 may run on CPU 1 now")
    assert allowed("kb-c1", "CPU 0/") == {1}
    canvas.root.locator(".kl-apply").click()
    assert becomes("kb-c1", "CPU 0/", set(CPUS) - {1})
    expect(canvas.button("Undo")).to_be_enabled()
    virsh("vcpupin", "kb-c1", "0", "0-1", "--live")
    assert wait_until(lambda: may_run(canvas, "kb-c1 vCPU 0") == "0-1", PATIENCE_S, 0.05)
    canvas.button("Undo").click()
    canvas.says("Press Undo once more to overwrite it.")
    assert allowed("kb-c1", "CPU 0/") == {0, 1}
    canvas.button("Undo all the same").click()
    assert becomes("kb-c1", "CPU 0/", {1})
    virsh("vcpupin", "kb-c1", "0", "0-1", "--live")


@pytest.mark.parametrize(("theme", "width"), [("Light", 1280), ("Light", 1024), ("Light", 400), ("Dark", 1280), ("Dark", 400)])
def test_in_both_themes_and_all_widths_nothing_is_cut_off(canvas, theme, width):
    canvas.page.set_viewport_size({"width": width, "height": 980})
    canvas.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {theme}")
    dark = "root => root.classList.contains('kl-dark')"
    assert wait_until(lambda: canvas.root.evaluate(dark) == (theme == "Dark"), PATIENCE_S, 0.05)
    canvas.click("kb-c1 vCPU 0", 0)
    expect(canvas.button("Apply 1 change")).to_be_enabled()
    assert canvas.root.evaluate("root => root.scrollWidth <= root.clientWidth + 1")
    name = canvas.root.locator(".kl-name").first
    left = name.bounding_box()["x"]
    canvas.root.evaluate("root => { root.kvmlab.box.scrollLeft = 200; }")
    assert name.bounding_box()["x"] == left  # names stay while the cells scroll
    canvas.root.evaluate("root => { root.kvmlab.box.scrollLeft = 0; }")
    canvas.page.wait_for_timeout(500)
    canvas.page.screenshot(path=OUT / f"pin_canvas_{theme.lower()}_{width}.png")


LARGE = """
import sys
sys.path.insert(0, {repository!r})
from tests.drawn import drawn
large = drawn({host!r}, {guests})
large
"""


@pytest.mark.parametrize(("host", "cpus", "guests"), [("x86_64-4n4s16c2t", 128, 4), (256, 256, 16)])
def test_a_large_host_is_drawn_and_can_be_arranged(opened, host, cpus, guests):
    page = opened(f"large{cpus}", LARGE.format(repository=str(REPOSITORY), host=host, guests=guests))
    page.locator(".kl-pins").wait_for()
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    canvas = Canvas(page)
    canvas.shows("16 guests" if guests == 16 else "4 guests")
    canvas.click("g0 vCPU 1", 2)
    expect(canvas.button("Apply 1 change")).to_be_visible()
    assert canvas.focused().get_attribute("aria-label").startswith("g0 vCPU 1, CPUs 2-3, ")  # cores are folded
    page.keyboard.press("ArrowDown")
    page.mouse.move(*canvas.box("g0 vCPU 2", 9))
    expect(canvas.root.locator(".kl-readout")).to_contain_text("g0 vCPU 2 on CPUs 8-9")
    assert page.locator("[role=gridcell]").count() == cpus // 2  # only of the row with the focus
    page.wait_for_timeout(700)
    page.screenshot(path=OUT / f"pin_canvas_{cpus}_cpus.png")
    canvas.root.get_by_label("Columns").select_option("cpu")
    assert page.locator("[role=gridcell]").count() == cpus
    assert page.locator("[role=gridcell][tabindex='0']").get_attribute("aria-label").startswith("g0 vCPU 2, CPU 2, ")
    spent = canvas.root.evaluate(
        "root => { const t = performance.now(); for (let i = 0; i < 20; i++) root.kvmlab.draw(); return performance.now() - t; }"
    )
    print(f"{cpus} CPUs: {spent / 20:.1f} ms a picture")
    page.screenshot(path=OUT / f"pin_canvas_{cpus}_cpus_unfolded.png")
    page.close()


def test_isolated_cpus_are_marked_and_told(opened):
    page = opened("isolated", LARGE.format(repository=str(REPOSITORY), host="x86_64-1s4c2t-isolated", guests=2))
    page.locator(".kl-pins").wait_for()
    canvas = Canvas(page)
    isolated = [column["cpu"] for column in canvas.root.evaluate("root => root.kvmlab.model.get('_host')")["cpus"] if column["special"]]
    assert isolated
    page.mouse.move(*canvas.box("g0 vCPU 1", isolated[0]))
    expect(canvas.root.locator(".kl-readout")).to_contain_text("isolated")
    page.screenshot(path=OUT / "pin_canvas_isolated.png")
    page.close()


def test_a_guest_that_goes_leaves_its_rows_and_its_wishes(canvas):
    canvas.page.set_viewport_size({"width": 1280, "height": 980})
    canvas.click("kb-db vCPU 0", 0)
    expect(canvas.button("Apply 1 change")).to_be_enabled()
    virsh("destroy", "kb-db")
    expect(canvas.root.get_by_role("rowheader", name="kb-db")).to_have_count(0)
    expect(canvas.button("Apply")).to_be_disabled()


def test_after_a_restart_of_the_kernel_the_old_view_says_so_and_does_nothing(server, page):
    canvas = Canvas(page)
    (session,) = [one for one in server.ask("api/sessions") if one["path"] == "canvas.ipynb"]
    server.ask(f"api/kernels/{session['kernel']['id']}/restart", "POST")
    canvas.says("No news from the kernel")
    expect(canvas.root.locator(".kl-apply")).to_be_disabled()
    canvas.click("kb-c1 vCPU 0", 0)
    expect(canvas.root.locator(".kl-apply")).to_be_disabled()
