"""One JupyterLab and one Chromium for all browser tests, with notebooks that the tests write."""

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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kvmlab.guest.microguest.page import wait_until
from tests.conftest import REPOSITORY, need

QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OUT = REPOSITORY / "out"


class Server(NamedTuple):
    address: str
    token: str
    folder: Path

    def ask(self, path: str, method: str = "GET") -> list | dict:
        request = urllib.request.Request(f"{self.address}/{path}?token={self.token}", method=method)
        return json.load(urllib.request.urlopen(request, timeout=30))


@pytest.fixture(scope="module")
def server(live, tmp_path_factory) -> Server:
    """JupyterLab on an empty folder."""
    folder = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder)
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={folder}"]
    quiet = ["--no-browser", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--allow-root"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTER_DATA_DIR": str(folder / ".data")}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    log = folder.with_suffix(".log")
    command = [sys.executable, "-m", "jupyterlab", "--LabApp.expose_app_in_browser=True", *options, *quiet]
    process = subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def answers() -> bool:
        try:
            return bool(server.ask("api/status"))
        except (urllib.error.URLError, OSError):
            return False

    assert wait_until(answers, 60, 0.2), log.read_text()
    yield server
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Browser:
    if not shutil.which("chromium"):
        need("no chromium")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET + sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(server, browser) -> Callable[..., Page]:
    """Open a notebook of these cells in JupyterLab and run all of them."""

    def open_(name: str, *cells: str, width: int = 1280) -> Page:
        code = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": [], "execution_count": None} for cell in cells]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
        path = server.folder / f"{name}.ipynb"
        path.write_text(json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        page = browser.new_page(viewport={"width": width, "height": 980})
        page.set_default_timeout(60_000)
        page.goto(f"{server.address}/doc/tree/{path.name}?token={server.token}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        news = page.get_by_role("button", name="No", exact=True)  # from outside
        if news.count():
            news.click()
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return page

    return open_
