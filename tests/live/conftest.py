"""A Lab for a whole file of tests; a guest and a process to be pinned, and a journal of pins of the tests' own."""

import subprocess
import sys

import pytest

from kvmlab import Lab
from tests.live.pins import affinities, another_thread

THREADS = """
import sys, threading
def wait(): threading.Event().wait()
for line in sys.stdin:  # a line, a thread
    threading.Thread(target=wait, daemon=True).start()
    print("up", flush=True)
"""


@pytest.fixture(scope="module")
def here(live):
    """One Lab for all tests of a file."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Where killed Labs leave their journals: not the user's own place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def shared(live, state):
    with Lab() as lab:
        lab.start("kl-c1", vcpus=2, devices="all")
        yield lab


@pytest.fixture
def c1(shared):
    """As it came up, and so again afterwards."""
    guest = shared._mine[shared.domain("kl-c1").UUIDString()]
    before = affinities(guest.process)
    yield guest
    while shared.undoable:
        shared.undo(force=True)
    assert {tid: cpus for tid, cpus in affinities(guest.process).items() if tid in before}.items() <= before.items()


@pytest.fixture
def child():
    """A process of our own with three threads, and more if it is told so."""
    process = subprocess.Popen([sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(2):
        another_thread(process)
    yield process
    process.kill()
    process.communicate()
