"""The commands as a user types them, in a process of their own."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from kvmlab import Host, columns, terminal
from tests.conftest import REPOSITORY

ISOLATED = str(REPOSITORY / "tests/hosts/x86_64-1s4c2t-isolated.tar.xz")


def kvmlab(*words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kvmlab.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, cwd=REPOSITORY)


def test_help_names_every_command():
    said = kvmlab("--help").stdout
    assert all(word in said for word in ("doctor", "threads", "topology", "record", "overcommit", "tour", "build-linux-guest"))


def test_doctor_says_on_one_screen_whether_kvm_works_and_how_fast(tmp_path):
    run = kvmlab("doctor", COLUMNS="120")
    lines = run.stdout.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120
    assert all(
        f" {check} " in run.stdout for check in ("CPU virtualization", "/dev/kvm", "guest speed", "IOMMU", "QEMU", "libvirt", "lab guests")
    )
    support = Host().support().set_index("check")
    assert ("In short: guests' user code" in run.stdout) == (support.loc["guest speed", "status"] in ("pass", "warn"))
    assert ("KVM is there and yet slow" in run.stdout) == ("yet slow" in str(support.loc["guest speed", "advice"]))
    assert run.returncode == int("FAIL" in run.stdout)


def test_doctor_of_a_recording_asks_neither_libvirt_nor_dev_kvm():
    run = kvmlab("doctor", "--host", ISOLATED, "--json")
    checks = {row["check"]: row for row in json.loads(run.stdout)}
    assert "libvirt" not in checks and checks["guest speed"]["status"] == "unknown"


def test_threads_are_those_asked_for_and_fit_the_terminal():
    run = kvmlab("threads", "--cpu", "1", "--kind", "migration", "--host", ISOLATED, COLUMNS="60")
    header, *rows = run.stdout.splitlines()
    assert header.split()[:2] == ["tid", "pid"] and len(rows) == 1 and "migration/1" in rows[0]
    assert all(len(line) <= 60 for line in run.stdout.splitlines())


def test_threads_as_json_are_the_frame():
    rows = json.loads(kvmlab("threads", "--host", ISOLATED, "--json").stdout)
    frame = Host.open(ISOLATED).threads()
    assert [row["tid"] for row in rows] == frame["tid"].tolist() and list(rows[0]) == list(frame.columns)
    assert rows[0]["allowed_cpus"] is None


@pytest.mark.parametrize("words, said", [(("--cpu", "99"), "There is no cpu 99. There are: 0, 1, 2"), (("--kind", "kwroker"), "kworker")])
def test_a_filter_that_fits_nothing_names_what_there_is(words, said):
    run = kvmlab("threads", "--host", ISOLATED, *words)
    assert run.returncode == 1 and said in run.stderr and not run.stdout


def test_a_kind_that_nobody_is_of_now_is_an_empty_table():
    run = kvmlab("threads", "--host", ISOLATED, "--kind", "vcpu", "--json")
    assert (run.returncode, json.loads(run.stdout)) == (0, [])
    assert kvmlab("threads", "--host", ISOLATED, "--kind", "vcpu").stdout.split()[:2] == ["tid", "pid"]


def test_a_recording_without_threads_says_so(tmp_path):
    (tmp_path / "sys/devices/system/cpu/cpu0").mkdir(parents=True)
    run = kvmlab("threads", "--host", str(tmp_path))
    assert run.returncode == 1 and "holds no threads" in run.stderr


def test_an_empty_name_of_a_recording_is_not_this_machine():
    assert kvmlab("topology", "--host", "").returncode == 1


def test_topology_in_words_and_as_a_table():
    said = kvmlab("topology", "--host", ISOLATED).stdout
    assert "4 cores" in said and "8 CPUs" in said and len(said.splitlines()) >= 10


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_topology_as_a_picture(tmp_path, ending):
    path = tmp_path / f"machine.{ending}"
    run = kvmlab("topology", "--host", ISOLATED, "-o", str(path))
    assert run.returncode == 0 and "8 CPUs" in run.stdout
    if ending == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert ET.parse(path).getroot().tag.endswith("svg")


def test_a_picture_of_another_kind_or_in_no_place_is_refused(tmp_path):
    run = kvmlab("topology", "-o", str(tmp_path / "machine.gif"))
    assert run.returncode == 1 and "ends in .svg, .png or .pdf" in run.stderr
    run = kvmlab("topology", "-o", str(tmp_path / "no/machine.png"))
    assert run.returncode == 1 and "cannot be written: No such file or directory" in run.stderr


def test_overcommit_is_the_table_of_this_host_and_what_it_means(lab):
    lab.start("kvmlab-cli", vcpus=2)
    header, host, *words = kvmlab("overcommit").stdout.splitlines()
    words = " ".join(words)
    assert header.split() == ["set", "cpus", "online", "guests", "vcpus", "ratio", "demand", "slack"] and host.split()[0] == "host"
    assert f"on {lab.uri}: {host.split()[4]} vCPUs for {host.split()[2]} host CPU" in words and "They ask for" in words
    rows = json.loads(kvmlab("overcommit", "--json").stdout)
    assert list(rows[0]) == header.split() and rows[0]["vcpus"] >= 2 and rows[0]["ratio"] == rows[0]["vcpus"] / rows[0]["online"]


def test_record_says_what_it_wrote_and_scrubbed_and_the_file_opens(tmp_path):
    run = kvmlab("record", str(tmp_path / "me.tar.xz"))
    assert run.returncode == 0 and "files" in run.stdout and "command lines" in run.stdout
    assert Host.open(tmp_path / "me.tar.xz").cpus().equals(Host().cpus())


@pytest.mark.parametrize(
    ("slack", "rest"), [(0.51, "0.5 are left"), (-0.01, "none is left, and none is wanting"), (-1.2, "1.2 are wanting")]
)
def test_what_is_left_of_the_cpus_is_never_a_wanting_nothing(slack, rest):
    ratios = columns.frame([("host", "0-1", 2, 1, 2, 1.0, 2 - slack, slack)], "ratios")
    assert f"CPUs; {rest}." in terminal.overcommit(ratios, "qemu:///system").replace("\n", " ")


def test_errors_are_one_line(tmp_path):
    run = kvmlab("topology", "--host", str(tmp_path / "nothing"))
    assert run.returncode == 1 and run.stderr.startswith("kvmlab: ") and len(run.stderr.splitlines()) == 1
    run = kvmlab("record", str(tmp_path / "me.zip"))
    assert run.returncode == 1 and "ends in .tar" in run.stderr


def test_a_pipe_that_closes_early_is_no_error():
    run = subprocess.run(
        f"{sys.executable} -m kvmlab.cli threads | head -1", shell=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert run.stdout.startswith(" ") or run.stdout.startswith("tid")
    assert "Traceback" not in run.stderr and "BrokenPipe" not in run.stderr


@pytest.mark.parametrize("command", ["threads", "topology", "doctor"])
def test_a_full_disk_under_the_output_is_one_line(command):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "kvmlab.cli", command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, timeout=60
        )
    assert run.returncode == 1 and run.stderr == "kvmlab: the output cannot be written: No space left on device.\n"


def test_a_terminal_that_knows_ascii_only_gets_all_lines():
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "kvmlab.cli", "doctor"]
    run = subprocess.run(command, capture_output=True, env=plain, cwd=REPOSITORY, timeout=60)
    assert b"halt polling" in run.stdout and b"In short" in run.stdout and not run.stderr
    assert run.stdout.isascii()
