import os
import re
from pathlib import Path

import pytest

from kvmlab.host import kvmdev
from tests.conftest import need


@pytest.fixture
def kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        # A machine without KVM is a machine to teach on as well: this is the one thing that CI may lack.
        pytest.skip("no /dev/kvm that this user may open")


def test_a_guest_of_four_instructions_reaches_its_port(kvm):
    for ring in (0, 3):
        vm = kvmdev.VM(kvmdev._LOOP, ring)
        vm.memory[kvmdev._ROUNDS] = 5
        assert [vm.step() for _ in range(3)] == [kvmdev.EXIT_IO] * 3
        vm.close()


def test_the_probe_measures_both_kinds_of_code(kvm):
    speed = kvmdev.probe()
    assert speed.problem is None and 0.2 < speed.user < 5 and 0 < speed.kernel < 5
    assert "user code at" in str(speed)


def test_no_file_descriptor_is_left_open(kvm):
    before = len(os.listdir("/proc/self/fd"))
    kvmdev.probe()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_permission_the_probe_says_so(monkeypatch):
    def refused(*_arguments):  # a fake: the tests run as root too, whom no permission stops
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kvmdev.os, "open", refused)
    assert kvmdev.probe().problem == "/dev/kvm: Permission denied"


def test_need_is_a_failure_where_everything_must_be_there(monkeypatch):
    monkeypatch.setenv("KVMLAB_REQUIRE_LIVE", "1")
    with pytest.raises(pytest.fail.Exception, match="KVMLAB_REQUIRE_LIVE"):
        need("no guests")


def test_the_requests_and_capabilities_have_the_numbers_of_the_kernel_header():
    header = Path("/usr/include/linux/kvm.h")
    need(None if header.exists() else f"no {header}: apt install linux-libc-dev")
    defined = dict(re.findall(r"#define (KVM_\w+)\s+(?:_IO\(KVMIO,\s*)?(\w+)", header.read_text()))
    here = {f"KVM_CAP_{name}": number for name, number in kvmdev.CAPABILITIES.items()}
    assert {name: int(defined[name], 0) for name in here} == here
    for name in ("KVM_GET_API_VERSION", "KVM_CHECK_EXTENSION"):
        assert getattr(kvmdev, name) & 0xFFFF == 0xAE00 | int(defined[name], 0)


def test_kvm_answers_with_its_one_version_and_what_every_kvm_has(kvm):
    answers = kvmdev.ask()
    assert answers.problem is None and answers.api == 12
    assert answers.capabilities["USER_MEMORY"] and answers.capabilities["MAX_VCPUS"] >= answers.capabilities["NR_VCPUS"] >= 1


def test_asking_leaves_no_file_descriptor_open(kvm):
    before = len(os.listdir("/proc/self/fd"))
    kvmdev.ask()
    assert len(os.listdir("/proc/self/fd")) == before


def test_asking_without_permission_says_so(monkeypatch):
    def refused(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kvmdev.os, "open", refused)
    assert kvmdev.ask() == kvmdev.Answers(problem="Permission denied")
