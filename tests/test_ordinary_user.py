"""Live tests and all notebooks once more as somebody who is not root, on qemu:///session.

Not all live tests, for the sake of time: what a session changes is how guests start, end, are found, pinned and looked at.
The works, the ledger and the layers are used by the notebooks.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need

LIVE = ("endings", "journal", "lab", "migration", "pinning", "story", "subsystems")
TESTS = [*(f"tests/live/test_{name}.py" for name in LIVE), "notebooks"]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def reachable(path: Path) -> bool:
    return subprocess.run([*NOBODY, "test", "-r", str(path)]).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the live tests already run as an ordinary user")
@pytest.mark.timeout(1200)
def test_everything_live_works_for_an_ordinary_user(live):
    with tempfile.TemporaryDirectory(prefix="kvmlab-user-", dir="/tmp") as home:
        os.chown(home, 65534, 65534)
        checkout = Path(home, "checkout")
        tests = f"-m pytest -p no:cacheprovider -q {' '.join(TESTS)}"
        command = f"exec {shlex.join(NOBODY)} {{python}} kvmlab/guest/reaper.py {{python}} {tests}"  # or each guest's end takes 2 s
        if reachable(REPOSITORY / "pyproject.toml") and reachable(Path(sys.executable)):
            checkout, command = REPOSITORY, command.format(python=shlex.quote(sys.executable))
        else:  # a checkout that only root can reach, shown to the user at another place
            os.mkdir(checkout)
            python = checkout / Path(sys.executable).relative_to(REPOSITORY)
            command = f"mount --bind {shlex.quote(str(REPOSITORY))} {checkout} && cd {checkout} && {command.format(python=python)}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "KVMLAB_TEST", "PYTEST"))}
        environment |= {"HOME": home, "PYTHONPATH": str(checkout), "PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}"}
        run = subprocess.run(["unshare", "--mount", "sh", "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        print(run.stdout[-6000:], run.stderr[-2000:])
        if "unshare failed" in run.stderr:
            need("this container may not unshare its mounts")
        assert run.returncode == 0
        assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 100
