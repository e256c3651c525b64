import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmlab.host import kvmdev
from kvmlab.host.kvmdev import Exit
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
        assert [vm.step() for _ in range(3)] == [Exit("IO", port=0x10, size=1, data=b"\0")] * 3
        vm.close()


@contextmanager
def running(code: str, ring: int = 0):
    vm = kvmdev.VM(bytes.fromhex(code), ring)
    try:
        yield vm
    finally:
        vm.close()


def test_a_guest_says_hi_to_a_port_and_halts(kvm):
    with running("b048 e6e9 b069 e6e9 f4") as vm:  # mov al, 'H'; out 0xe9, al; mov al, 'i'; out 0xe9, al; hlt
        seen = [vm.step() for _ in range(3)]
        assert vm.registers()["rax"] == ord("i") and vm.registers()["rip"] == 0x1009
    assert seen == [Exit("IO", port=0xE9, size=1, data=b"H"), Exit("IO", port=0xE9, size=1, data=b"i"), Exit("HLT")]
    assert [one.direction for one in seen] == ["out", "out", None]
    assert [str(one) for one in seen] == [
        "KVM_EXIT_IO: writes b'H' to port 0xe9",
        "KVM_EXIT_IO: writes b'i' to port 0xe9",
        "KVM_EXIT_HLT",
    ]


def test_a_store_above_the_memory_is_a_device_and_one_below_is_not(kvm):
    # mov byte [0x800], 'H'; mov dword [0xb8000], 0x07690748; hlt
    with running("c604250008000048 c7042500800b0048076907 f4") as vm:
        seen = vm.step()
        assert seen == Exit("MMIO", address=0xB8000, size=4, data=b"H\7i\7") and seen.direction == "out"
        assert str(seen) == "KVM_EXIT_MMIO: writes b'H\\x07i\\x07' to address 0xb8000"
        assert vm.step() == Exit("HLT") and vm.memory[0x800] == ord("H")


def test_a_guest_that_reads_gets_the_answer_that_it_is_given(kvm):
    # in al, 0x60; mov bl, al; in ax, 0x61; mov cl, [0xb8000]; hlt
    with running("e460 88c3 66e561 8a0c2500800b00 f4") as vm:
        assert (seen := vm.step()) == Exit("IO", port=0x60, size=1) and seen.direction == "in"
        assert str(seen) == "KVM_EXIT_IO: reads 1 byte from port 0x60"
        assert (seen := vm.step(b"A")) == Exit("IO", port=0x61, size=2)
        assert str(seen) == "KVM_EXIT_IO: reads 2 bytes from port 0x61"
        assert vm.step(b"BC") == Exit("MMIO", address=0xB8000, size=1)
        assert vm.step(b"D") == Exit("HLT")
        found = vm.registers()
        assert (found["rbx"], found["rax"], found["rcx"]) == (ord("A"), int.from_bytes(b"BC", "little"), ord("D"))


def test_an_answer_that_nobody_asked_for_is_refused(kvm):
    with running("e460 f4") as vm:
        for answer in (b"before the guest ran", b"longer than was asked for"):
            with pytest.raises(IndexError):
                vm.step(answer)
            vm.step()


def test_user_mode_may_not_halt_and_a_fault_that_nobody_handles_shuts_the_machine_down(kvm):
    with running("f4", ring=0) as vm:
        assert vm.step() == Exit("HLT")
    with running("f4", ring=3) as vm:
        assert vm.step() == Exit("SHUTDOWN")


def test_kvm_answers_cpuid_by_itself(kvm):
    with running("31c0 0fa2 f4") as vm:  # xor eax, eax; cpuid; hlt
        assert vm.step() == Exit("HLT")


def test_kvms_own_counters_count_the_exits(kvm):
    with running("b048 e6e9 e6e9 f4") as vm:
        before = vm.statistics()
        if not before:
            pytest.skip("Linux before 5.14: no KVM_GET_STATS_FD")
        opened = len(os.listdir("/proc/self/fd"))
        [vm.step() for _ in range(3)]
        after = vm.statistics()
        assert len(os.listdir("/proc/self/fd")) == opened
    assert before.keys() == after.keys() and before["exits"] == 0
    assert after["exits"] >= 3 and after["halt_exits"] == 1


def test_a_kernel_without_statistics_has_none_and_other_errors_are_errors(kvm):
    with running("f4") as vm:
        assert kvmdev._statistics(vm._fds[0]) == {}  # /dev/kvm itself has none
        vm.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            vm.statistics()


def test_all_exits_are_those_up_to_the_first_that_is_no_device(kvm):
    before = len(os.listdir("/proc/self/fd"))
    port = Exit("IO", port=0xE9, size=1, data=b"H")
    assert kvmdev.exits(bytes.fromhex("b048 e6e9 e6e9 f4"), ring=0) == [port, port, Exit("HLT")]
    assert kvmdev.exits(bytes.fromhex("b048 e6e9 ebfc"), ring=0, most=7) == [port] * 7  # for ever
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_vm_that_cannot_be_made_leaves_no_file_descriptor_open(kvm):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IndexError):
        kvmdev.VM(bytes(1 << 20), 0)  # more code than memory
    assert len(os.listdir("/proc/self/fd")) == before


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
    assert {f"KVM_EXIT_{name}": number for number, name in kvmdev.EXITS.items()}.items() <= {
        name: int(value) for name, value in re.findall(r"#define (KVM_EXIT_\w+)\s+(\d+)", header.read_text())
    }.items()
    for name in ("KVM_GET_API_VERSION", "KVM_CHECK_EXTENSION", "KVM_GET_STATS_FD"):
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
