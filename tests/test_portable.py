"""Where there is no Linux and no libvirt. These systems are played: Python's modules and calls that they lack are taken away."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

RECORDED = REPOSITORY / "tests/hosts/x86_64-2n2s4c2t-offline.tar.xz"
HEAVY = "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot, pandas, ipywidgets, anywidget, asyncio, platform, subprocess"
TAKEN = {
    "Linux": "['libvirt']",
    "Darwin": "['libvirt']",
    "Windows": "['libvirt', 'pwd', 'grp', 'fcntl', 'resource', 'termios']",
}
CALLS = {
    "Linux": "",
    "Darwin": "sched_getaffinity sched_setaffinity",
    "Windows": "sched_getaffinity sched_setaffinity geteuid getuid uname pread O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY",
}
PLATFORM = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}


def run(system: str, code: str) -> str:
    play = f"""
import sys, os
{HEAVY}
sys.modules.update(dict.fromkeys({TAKEN[system]}))
for name in {CALLS[system]!r}.split():
    delattr(os, name)
sys.platform = {PLATFORM[system]!r}
platform.system = lambda: {system!r}
{code}"""
    done = subprocess.run([sys.executable, "-c", play], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("system", TAKEN)
def test_a_lessons_import_cell_and_its_recorded_hosts_work(system):
    said = run(
        system,
        f"""
from kvmlab import Host, KvmlabError, Lab, TwoHosts, cpulist, measure, models, plots
from kvmlab.widgets import ask, vary
from kvmlab.course import check, progress
host = Host.open({str(RECORDED)!r})
for frame in (host.cpus(), host.caches(), host.nodes(), host.threads(), host.isolation(), host.flags(), host.support()):
    assert len(frame), frame
plots.machine(host.cpus(), host.caches(), host.nodes())
print(plots.machine_in_words(host.cpus(), host.caches(), host.nodes()))
assert ask("a share", 0, 100).value == 50
print(check("06.1"))
""",
    )
    assert "2 NUMA nodes" in said and "not tried yet" in said


@pytest.mark.parametrize("system", TAKEN)
def test_what_needs_guests_says_so_in_one_sentence_when_it_is_used(system):
    uses = ["Lab()", "TwoHosts()"]
    said = run(
        system,
        f"""
from kvmlab import KvmlabError, Lab, TwoHosts
for use in {uses!r}:
    try:
        eval(use)
    except KvmlabError as error:
        print(use, error)
""",
    )
    wanted = "libvirt-python is missing" if system == "Linux" else f"Guests need Linux with libvirt and QEMU, and this is {system}."
    assert said.count(wanted) == len(uses)


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_this_machine_is_no_linux(system):
    code = "from kvmlab.cli import main; sys.exit(not main(['topology']))"
    assert run(system, code) == ""
    code = f"from kvmlab.cli import main; sys.exit(main(['topology', '--host', {str(RECORDED)!r}]))"
    assert "2 NUMA nodes" in run(system, code)
