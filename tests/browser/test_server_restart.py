"""The server that a pin canvas belongs to ends, with its kernel, and comes back: in a real Chromium, on real guests."""

import os

import psutil
from playwright.sync_api import expect

from kvmlab.guest.microguest.page import wait_until
from tests.browser.conftest import PATIENCE_S, new_server, open_notebook, served
from tests.browser.test_pin_canvas import CPUS, START, Canvas, allowed
from tests.conftest import need


def guests() -> list[str]:
    words = [word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()]
    return [word for word in words if word.startswith("guest=kb-")]


def test_the_old_view_is_harmless_and_a_new_one_works(live, browser, tmp_path):
    if len(CPUS) < 2:
        need("one CPU: nothing can be moved")
    server = new_server(tmp_path / "served")
    server.folder.mkdir()
    with served(server):
        page = open_notebook(server, browser, "canvas", START)
        canvas = Canvas(page)
        expect(canvas.root.get_by_text("live, last 5 s")).to_be_visible()
    canvas.says("No news from the kernel")
    expect(canvas.root.locator(".kl-apply")).to_be_disabled()
    assert wait_until(lambda: not guests(), PATIENCE_S), "the kernel ended, and its guests with it"
    page.close()
    with served(server):
        page = open_notebook(server, browser, "canvas", START)
        canvas = Canvas(page)
        expect(canvas.root.get_by_text("live, last 5 s")).to_be_visible()
        canvas.click("kb-c1 vCPU 0", CPUS[0])
        canvas.button("Apply 1 change").click()
        assert wait_until(lambda: allowed("kb-c1", "CPU 0/") == os.sched_getaffinity(0) - {CPUS[0]}, PATIENCE_S)
        page.close()
