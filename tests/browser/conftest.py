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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

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
PATIENCE_S = 20  # with what comes of itself, on a machine that is busy
expect.set_options(timeout=1000 * PATIENCE_S)


class Server(NamedTuple):
    address: str
    token: str
    folder: Path

    def ask(self, path: str, method: str = "GET") -> list | dict:
        request = urllib.request.Request(f"{self.address}/{path}?token={self.token}", method=method)
        return json.load(urllib.request.urlopen(request, timeout=30))


def new_server(folder: Path) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Server(f"http://127.0.0.1:{free.getsockname()[1]}", secrets.token_hex(16), folder)


@contextmanager
def served(server: Server) -> Iterator[Server]:
    """JupyterLab on a folder."""
    folder, port = server.folder, server.address.rpartition(":")[2]
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={folder}"]
    quiet = ["--no-browser", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--allow-root"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTER_DATA_DIR": str(folder / ".data")}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    log = folder.with_suffix(".log")
    log.touch()
    command = [sys.executable, "-m", "jupyterlab", "--LabApp.expose_app_in_browser=True", *options, *quiet]
    process = subprocess.Popen(command, env=environment, stdout=log.open("a"), stderr=subprocess.STDOUT)

    def answers() -> bool:
        try:
            return bool(server.ask("api/status"))
        except (urllib.error.URLError, OSError):
            return False

    try:
        assert wait_until(answers, 60, 0.2), log.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(live, tmp_path_factory) -> Server:
    """JupyterLab on an empty folder."""
    with served(new_server(tmp_path_factory.mktemp("jupyter"))) as server:
        yield server


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
    return partial(open_notebook, server, browser)


def open_notebook(server: Server, browser: Browser, name: str, *cells: str, width: int = 1280) -> Page:
    """A notebook of these cells in JupyterLab, in which all of them run."""
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
