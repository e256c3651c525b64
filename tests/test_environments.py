"""Where people open it: the lists of packages agree and exist, and an ordinary user without KVM gets what the pages promise."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need
from tests.test_ordinary_user import reachable

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BINDER, CONTAINER = REPOSITORY / ".binder", REPOSITORY / ".devcontainer"


def lower_bounds(lines: list[str]) -> dict[str, str]:
    return dict(re.match(r"([\w.-]+)>=([\w.]+)", line).groups() for line in lines)


def wanted() -> dict[str, str]:
    extras = PROJECT["optional-dependencies"]
    return lower_bounds([line for lines in (PROJECT["dependencies"], *extras.values()) for line in lines])


def apt_packages() -> set[str]:
    lab = re.findall(r'^    echo "\S+ ([a-z0-9.+-]+)"$', (REPOSITORY / "lab").read_text(), re.MULTILINE)
    docker = (CONTAINER / "Dockerfile").read_text().replace("\\\n", "").partition("--no-install-recommends")[2].partition("&&")[0].split()
    assert len(lab) > 15 and "python3-venv" in docker
    return {*lab, *docker, *(BINDER / "apt.txt").read_text().split(), "libvirt-daemon-system-sysv"}


def test_the_debian_packages_exist():
    if not shutil.which("apt-cache"):
        need("no apt: the packages' names cannot be looked up")
    run = subprocess.run(["apt-cache", "policy", *apt_packages()], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    candidates = dict(re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (.+)$", run.stdout, re.MULTILINE))
    if len(set(candidates.values())) < 2:
        need("apt has no lists of packages: apt-get update")
    assert {name for name in apt_packages() if candidates.get(name, "(none)") == "(none)"} == set()


def test_conda_wants_the_versions_that_pip_wants():
    conda = re.findall(r"^ +- ([\w.-]+>=[\w.]+)", (REPOSITORY / "environment.yml").read_text(), re.MULTILINE)
    assert lower_bounds(conda) == wanted() | {"python": PROJECT["requires-python"].removeprefix(">=")}


def test_binder_installs_this_project_on_a_python_that_it_takes():
    python = re.search(r"python=3\.(\d+)", (BINDER / "environment.yml").read_text())[1]
    assert int(python) >= int(PROJECT["requires-python"].partition("3.")[2])
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK) and "--editable ." in script.read_text()
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_what_guests_need_is_in_every_list():
    assert {"qemu-system-x86", "libvirt-daemon", "libvirt-clients", "libvirt-dev", "pkg-config", "gcc"} <= set(
        (BINDER / "apt.txt").read_text().split()
    )
    assert "COPY .binder/apt.txt" in (CONTAINER / "Dockerfile").read_text()


def test_the_dev_container_names_files_users_and_commands_that_there_are():
    container = json.loads((CONTAINER / "devcontainer.json").read_text())
    dockerfile = (CONTAINER / container["build"]["dockerfile"]).read_text()
    assert f" {container['remoteUser']}\n" in dockerfile and (CONTAINER / container["build"]["context"]).resolve() == REPOSITORY
    script, word, *command = shlex.split(container["postCreateCommand"].partition("||")[0])
    assert os.access(REPOSITORY / script, os.X_OK) and f"./lab {word} " in (REPOSITORY / "lab").read_text()
    from kvmlab import cli

    cli._parser().parse_args(command[1:])  # a command of `kvmlab` that there is


FIRST_STEPS = """
from kvmlab import Lab, measure
lab = Lab()
print(lab)
lab.start("first", vcpus=2).work("spin")
print(measure.in_words(lab.sample(seconds=0.5)))
import subprocess
print(subprocess.run(["virsh", "list"], capture_output=True, text=True).stdout)
print(lab.close())
"""
OPEN = """
from kvmlab import KvmlabError, Lab
try:
    Lab()
except KvmlabError as error:
    print(error)
"""


def as_somebody(code: str, home: str, user: int = 65534) -> str:
    """What Python code prints for a user without root, without XDG_ variables, in this home: as in a container."""
    command = ["setpriv", "--reuid", str(user), "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
    environment = {"HOME": home, "PATH": f"{os.environ['PATH']}:/usr/sbin", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    if not (reachable(REPOSITORY / "pyproject.toml") and reachable(Path(sys.executable))):
        checkout = Path(home).parent / "checkout"
        checkout.mkdir(exist_ok=True)
        environment["PYTHONPATH"] = str(checkout)
        command[command.index(sys.executable)] = str(checkout / Path(sys.executable).relative_to(REPOSITORY))
        bind = f"mount --bind {shlex.quote(str(REPOSITORY))} {checkout} && cd {checkout} && exec {shlex.join(command)}"
        command = ["unshare", "--mount", "sh", "-c", bind]
    run = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120)
    if "unshare failed" in run.stderr:
        need("this container may not unshare its mounts")
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def home():
    """A new one, which its user owns; a session's daemon that was started there ends by itself when idle."""
    with tempfile.TemporaryDirectory(prefix="kvmlab-env-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        place = Path(folder, "user")
        place.mkdir()
        os.chown(place, 65534, 65534)
        yield str(place)
        for file in place.glob(".cache/libvirt/*.pid"):
            os.kill(int(file.read_text()), 15)


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@ROOT
def test_the_first_steps_of_a_user_without_kvm_and_session_variables(live, home):
    said = as_somebody(FIRST_STEPS, home)
    assert "Lab on qemu:///session" in said and re.search(r" \d+ +first +running", said)
    assert "first vCPU 1 ran on CPU" in said and "1 guest gone" in said
    group = Path("/dev/kvm")
    if not group.exists() or not group.stat().st_mode & 0o006:
        assert "They run on TCG: /dev/kvm: " in said


@ROOT
@pytest.mark.parametrize(
    "folder, user, advice",
    [
        ("", 71234, "let root add them to /etc/passwd"),
        ("a" * 90, 65534, "XDG_RUNTIME_DIR=$(mktemp -d)"),
        ("none", 65534, "set HOME to a folder"),
    ],
    ids=["no entry in passwd", "a long home", "no home"],
)
def test_a_home_or_user_that_libvirt_cannot_use_is_told_with_what_to_do(live, home, folder, user, advice):
    place = Path(home, folder)
    if folder != "none":
        place.mkdir(exist_ok=True)
        os.chown(place, user, 65534)
    assert advice in as_somebody(OPEN, "/proc/none" if folder == "none" else str(place), user)
