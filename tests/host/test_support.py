"""What `host.support()` says of this machine: beside other people's programs, and what its measurements mean."""

import json
import os
import platform
import re
import shutil
import subprocess

import pytest

from kvmlab.columns import frame
from kvmlab.host import kvmdev, support, tuning
from kvmlab.host.check import Machine
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need
from tests.host.paper import table


def run(*command):
    need(None if shutil.which(command[0]) else f"no {command[0]}")
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}).stdout


@pytest.fixture(scope="module")
def here():
    return table(SysRoot())


# ---- this machine, beside other people's programs


def test_the_table_fits_a_terminal(here):
    assert 20 <= len(here) <= 28  # and QEMU's and libvirt's versions
    for check, status, found, source, _advice in here.values():
        assert status in support.STATUSES and check and found and source
        assert len(found) <= 70
    assert len(frame(here.values(), "support")) == len(here)


def test_whatever_warns_or_fails_says_what_to_do(here):
    assert [row[0] for row in here.values() if row[1] in ("warn", "fail") and not row[4]] == []


def test_the_kernel_is_the_one_that_uname_names(here):
    assert here["kernel"][2].startswith(platform.release())


def test_lscpu_finds_the_same_virtualization_and_hypervisor(here):
    fields = {entry["field"].rstrip(":"): entry["data"] for entry in json.loads(run("lscpu", "--json"))["lscpu"]}
    if platform.machine() == "x86_64":
        assert (here["CPU virtualization"][1] == "pass") == ("Virtualization" in fields)
    above = fields.get("Hypervisor vendor")
    assert here["virtual machine"][2] == (f"yes, under {above}" if above else "no")


def test_lscpu_finds_the_same_vulnerabilities(here):
    entries = json.loads(run("lscpu", "--json"))["lscpu"]
    texts = {e["field"][14:-1].lower().replace(" ", "_"): e["data"] for e in entries if e["field"].startswith("Vulnerability")}
    need(None if texts else "lscpu shows no vulnerabilities")
    open_ones = sorted(name for name, text in texts.items() if text.startswith("Vulnerable"))
    _, status, found, _, advice = here["CPU vulnerabilities"]
    assert (status == "pass") == (not open_ones and not any("SMT vulnerable" in text for text in texts.values()))
    assert all(name in advice for name in open_ones)
    unaffected = sum(text == "Not affected" for text in texts.values())
    assert f"{unaffected} unaffected" in found


def test_virt_host_validate_agrees_about_processor_device_and_iommu(here):
    verdicts = dict(re.findall(r"QEMU: Checking (.*?) *: (PASS|WARN|FAIL)", run("virt-host-validate", "qemu")))
    assert (here["CPU virtualization"][1] == "pass") == (verdicts["for hardware virtualization"] == "PASS")
    if "if device /dev/kvm is accessible" in verdicts:
        assert (here["/dev/kvm"][1] != "fail") == (verdicts["if device /dev/kvm is accessible"] == "PASS")
    assert (here["IOMMU"][1] == "pass") == (verdicts.get("if IOMMU is enabled by kernel") == "PASS")


def test_virt_host_validate_finds_the_same_cgroup_controllers():
    verdicts = dict(
        re.findall(r"QEMU: Checking for cgroup '(\w+)' controller support *: (PASS|WARN|FAIL)", run("virt-host-validate", "qemu"))
    )
    first, second = tuning.controllers(Machine(SysRoot()))
    names = (first or set()) | (second or set())
    names |= {"cpuacct"} if "cpu" in names else set()  # version 2 counts without being asked
    names |= {"blkio"} if "io" in names else set()
    names |= {"devices"} if second is not None else set()  # version 2 does these by BPF
    assert verdicts and {name for name, verdict in verdicts.items() if verdict == "PASS"} == names & set(verdicts)


def test_kvm_ok_agrees(here):
    said = run("kvm-ok")
    if platform.machine() == "x86_64":
        assert ("does not support KVM extensions" in said) == ("no vmx or svm" in here["CPU virtualization"][2])
    if "INFO: /dev/kvm exists" in said:
        assert here["/dev/kvm"][2] != "No such file or directory"


# ---- what the measurements mean


@pytest.fixture
def asked(monkeypatch):
    """A live machine on which KVM answers."""
    monkeypatch.setattr(kvmdev, "ask", lambda: kvmdev.Answers(12, dict.fromkeys(kvmdev.CAPABILITIES, 1)))


@pytest.mark.parametrize(
    ("measured", "status", "words"),
    [
        (kvmdev.Speed(0.99, 0.97), "pass", None),
        (kvmdev.Speed(1.0, 0.0005), "warn", "the lab guest"),
        (kvmdev.Speed(0.05, 0.04), "warn", "TCG"),
        (kvmdev.Speed(problem="KVM here does not run a loop"), "fail", "TCG"),
    ],
)
def test_the_speed_of_guests_is_judged_by_both_kinds_of_code(asked, monkeypatch, measured, status, words):
    monkeypatch.setattr(kvmdev, "probe", lambda: measured)
    monkeypatch.setattr(Machine, "architecture", "x86")
    row = table(SysRoot())["guest speed"]
    assert row[1] == status and (words is None) == (row[4] is None) and (words or "") in (row[4] or "")


def test_a_device_that_one_may_not_open_names_its_group(monkeypatch, tmp_path):
    (tmp_path / "kvm").touch(mode=0o660)
    monkeypatch.setattr(support, "_DEVICE", str(tmp_path / "kvm"))
    monkeypatch.setattr(kvmdev, "ask", lambda: kvmdev.Answers(problem="Permission denied"))
    monkeypatch.setattr(kvmdev, "probe", lambda: kvmdev.Speed(problem="/dev/kvm: Permission denied"))
    rows = table(SysRoot())
    device = rows[str(tmp_path / "kvm")]
    assert device[1] == "fail" and device[2].startswith("-rw-") and "Permission denied" in device[2] and "usermod" in device[4]
    assert {rows[name][1] for name in ("KVM API", "KVM capabilities", "vCPUs of a guest", "guest speed")} == {"unknown"}


def test_an_old_kvm_is_told_by_its_answers(monkeypatch):
    monkeypatch.setattr(kvmdev, "ask", lambda: kvmdev.Answers(11, dict.fromkeys(kvmdev.CAPABILITIES, 0)))
    monkeypatch.setattr(kvmdev, "probe", lambda: kvmdev.Speed(1, 1))
    rows = table(SysRoot())
    assert rows["KVM API"][1] == "fail" and rows["KVM capabilities"][1] == "fail"
    assert rows["vCPUs of a guest"][2].startswith("at most 4, recommended 4")  # what api.rst tells to assume
