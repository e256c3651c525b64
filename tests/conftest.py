"""What all tests share: where guests run, and what happens where they cannot."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("kvmlab", deadline=None)  # no test asserts a time
settings.load_profile("kvmlab")
REPOSITORY = Path(__file__).parent.parent


def pytest_configure() -> None:
    """An ordinary user's tests get a libvirt session of their own, so that they never touch the user's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with Ctrl-C ignored
    if os.geteuid() != 0 and "KVMLAB_TEST_HOME" not in os.environ:
        home = tempfile.mkdtemp(prefix="kvmlab-test-", dir="/tmp")  # short: UNIX socket names have 108 bytes
        os.environ["KVMLAB_TEST_HOME"] = home
        for name in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME"):
            folder = "run" if name == "RUNTIME_DIR" else name.removesuffix("_HOME").lower()
            os.makedirs(f"{home}/{folder}", mode=0o700)
            os.environ[f"XDG_{name}"] = f"{home}/{folder}"


def pytest_unconfigure() -> None:
    home = os.environ.get("KVMLAB_TEST_HOME")
    if home and os.geteuid() != 0:
        for pid_file in Path(home).glob("run/libvirt/*.pid"):
            with_pid = pid_file.read_text().strip()
            if with_pid.isdigit() and Path("/proc", with_pid).exists():
                os.kill(int(with_pid), 15)
        shutil.rmtree(home, ignore_errors=True)


def need(missing: str | None) -> None:
    """Skip what needs something that is not here; fail instead where everything must be (KVMLAB_REQUIRE_LIVE=1)."""
    if missing and os.environ.get("KVMLAB_REQUIRE_LIVE"):
        pytest.fail(f"{missing}, and KVMLAB_REQUIRE_LIVE is set")
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def live() -> None:
    """libvirt and QEMU are there."""
    from kvmlab import KvmlabError, Lab

    try:
        with Lab(accel="tcg") as lab:
            lab.start("kvmlab-test-first")
    except KvmlabError as error:
        need(f"no real guests here: {error}")


@pytest.fixture
def lab(live):
    """A Lab of the kind that this machine would use."""
    from kvmlab import Lab

    with Lab() as lab:
        yield lab


@pytest.fixture
def tcg_lab(live):
    """A Lab that emulates, as on a machine without KVM."""
    from kvmlab import Lab

    with Lab(accel="tcg") as lab:
        yield lab
