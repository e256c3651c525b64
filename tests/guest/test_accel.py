import stat

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import accel
from kvmlab.host import kvmdev

FAST, EMULATED = kvmdev.Speed(user=0.98, kernel=0.95), kvmdev.Speed(user=0.0004, kernel=0.0004)
NESTED, NONE = kvmdev.Speed(user=0.99, kernel=0.0003), kvmdev.Speed(problem="/dev/kvm: No such file or directory")


@pytest.fixture
def probe(monkeypatch):
    """Machines that this one is not: the measurement is a fake, what follows from it is not."""
    return lambda speed: monkeypatch.setattr(kvmdev, "probe", lambda: speed)


@pytest.mark.parametrize("speed, chosen", [(FAST, "kvm"), (NESTED, "kvm"), (EMULATED, "tcg"), (NONE, "tcg")])
def test_kvm_is_taken_where_it_runs_user_code_well(probe, speed, chosen):
    probe(speed)
    assert accel.choose("auto", "qemu:///session")[0] == chosen


def test_the_reason_says_what_was_measured(probe):
    probe(EMULATED)
    assert "0.04 %" in accel.choose("auto", "qemu:///session")[1]


def test_insisting_on_kvm_where_there_is_none_is_an_error(probe):
    probe(NONE)
    with pytest.raises(KvmlabError, match="No such file"):
        accel.choose("kvm", "qemu:///session")


def test_another_word_is_an_error():
    with pytest.raises(KvmlabError, match="'auto'"):
        accel.choose("KVM!", "qemu:///session")


def test_a_device_for_root_alone_is_an_error_that_says_what_to_type(monkeypatch):
    class Status:  # a fake: making the real device root's alone would stop other guests of this machine
        st_mode = stat.S_IFCHR | 0o600

    monkeypatch.setattr(accel.os, "stat", lambda _path: Status)
    with pytest.raises(KvmlabError, match="chmod 660"):
        accel.choose("tcg", "qemu:///system")


def test_without_a_device_there_is_nothing_to_refuse(probe, monkeypatch):
    def absent(_path):
        raise FileNotFoundError

    probe(NONE)
    monkeypatch.setattr(accel.os, "stat", absent)
    assert accel.choose("auto", "qemu:///system") == ("tcg", NONE.problem)
