"""Live tests and notebooks once more as somebody who is not root, on qemu:///session and, for /dev/kvm is closed to them, on TCG.

Only what is another thing for them: how guests start, end, are found, pinned and looked at, whose files they are, what may be
tuned, and the notebooks that speak of it. The works, the ledger and the topology under TCG are tried by the live tests of root.
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

LIVE = ("endings", "journal", "lab", "pinning", "story", "subsystems", "undo")
MIGRATION = (
    "a_working_guest_moves_and_goes_on_where_it_was",
    "kill_9_of_python_in_mid_move_leaves_neither_guest_nor_daemon_nor_folder",
    "the_hosts_belong_to_nobody_else_and_go_with_their_block",
)
SHARES = (
    "somebody_who_may_not_tune_cpus_is_told_who_can_before_anything_is_measured",
    "shares_that_cannot_be_are_refused_and_nothing_changes",
    "the_shares_of_guests_that_are_only_watched_are_read_and_not_changed",
)
NOTEBOOKS = ("00_start_here", "02_architecture", "04_overcommit", "06_affinity")
TESTS = [
    *(f"tests/live/test_{name}.py" for name in LIVE),
    *(f"tests/live/test_migration.py::test_{name}" for name in MIGRATION),
    *(f"tests/live/test_overcommit.py::test_{name}" for name in SHARES),
    *(f"notebooks/{name}.ipynb" for name in NOTEBOOKS),
]
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
