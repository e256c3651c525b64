"""The notebook in JupyterLab in a real Chromium: a click, Apply, and the kernel's answer.

Screenshots are written to out/ for a person to look at.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from kvmlab.guest.microguest.page import wait_until
from tests.conftest import REPOSITORY, need

NOTEBOOK = "07_vcpu_pinning.ipynb"
QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OUT = REPOSITORY / "out"


@pytest.fixture
def server(live, tmp_path):
    """JupyterLab on a copy of the notebook (it saves what it runs): its address."""
    shutil.copy(REPOSITORY / "notebooks" / NOTEBOOK, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={tmp_path}",
        "--no-browser",
        "--LabApp.expose_app_in_browser=True",
    ]
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--allow-root"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    log = (tmp_path / "jupyter.log").open("w")
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options, *quiet], env=environment, stdout=log, stderr=log)

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    assert wait_until(answers, 60, 0.2), (tmp_path / "jupyter.log").read_text()
    yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={token}"
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture
def page():
    if not shutil.which("chromium"):
        need("no chromium")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET + sandbox)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(90_000)
        yield page
        OUT.mkdir(exist_ok=True)
        page.screenshot(path=OUT / "last.png")  # what it looked like at the end, however it ended
        browser.close()


def run_until(page: Page, words: str) -> None:
    """Run the notebook's cells, one after the other, up to the one that holds `words`."""
    cells = json.loads((REPOSITORY / "notebooks" / NOTEBOOK).read_text())["cells"]
    last = next(n for n, cell in enumerate(cells) if words in "".join(cell["source"]))
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    for _ in range(last + 1):
        page.keyboard.press("Shift+Enter")


def vcpu_thread(guest: str, vcpu: int) -> int:
    """From the kernel alone: the thread called "CPU n/..." of the QEMU with that guest's name."""
    name = f"guest={guest},debug-threads=on"
    found = [process for process in psutil.process_iter(["cmdline", "create_time"]) if name in (process.info["cmdline"] or ())]
    newest = max(found, key=lambda process: process.info["create_time"])
    for thread in newest.threads():
        if Path(f"/proc/{newest.pid}/task/{thread.id}/comm").read_text().startswith(f"CPU {vcpu}/"):
            return thread.id
    raise AssertionError(f"no thread of {guest} vCPU {vcpu}")


def test_a_click_and_apply_move_a_real_vcpu(server, page):
    page.goto(server)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("button", name="No", exact=True).click()  # no news from outside
    run_until(page, "lab.pin_widget()")
    apply = page.get_by_role("button", name="Make the kernel agree").or_(page.locator("button", has_text="Apply"))
    apply.first.wait_for(timeout=120_000)
    switch = page.locator("button[title='c1 vCPU 0 may run on CPU 0']")
    switch.scroll_into_view_if_needed()
    tid = vcpu_thread("c1", 0)
    allowed = os.sched_getaffinity(tid)
    if len(allowed) == 1:
        need("one CPU: nothing can be moved")

    switch.click()
    expect(page.locator(".jp-OutputArea", has_text="virsh vcpupin c1 0").first).to_be_visible()
    assert os.sched_getaffinity(tid) == allowed  # not before Apply
    apply.first.click()
    assert wait_until(lambda: os.sched_getaffinity(tid) == allowed - {0}, 5)
    expect(page.get_by_text("As the kernel says: c1 vCPU 0 on CPU").first).to_be_visible()
    expect(page.locator("button[title='c1 vCPU 0 may run on CPU 1']")).to_have_text("100 %", timeout=10_000)
    page.screenshot(path=OUT / "pin_grid.png")

    page.evaluate("document.querySelector('.jp-OutputArea button[title=\"Take the last Apply back\"]').focus()")
    page.keyboard.press("Enter")  # by keyboard alone
    assert wait_until(lambda: os.sched_getaffinity(tid) == allowed, 5)
    expect(page.get_by_text("1 pin put back.").first).to_be_visible()

    for theme, width in (("JupyterLab Dark", 1280), ("JupyterLab Light", 1024)):
        page.set_viewport_size({"width": width, "height": 860})
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_timeout(1500)
        page.screenshot(path=OUT / f"pin_grid_{theme.split()[1].lower()}_{width}.png")
