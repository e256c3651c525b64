"""What doctor says of QEMU, libvirt and lab guests where one of them is hidden."""

import pytest

from kvmlab.guest import readiness


def checks() -> dict[str, tuple]:
    return {check: (status, found) for check, status, found, *_ in readiness.rows()}


@pytest.mark.parametrize(
    ("hidden", "missing"),
    [("qemu-system-x86_64", "QEMU"), ("libvirtd virtqemud", "libvirt"), ("qemu-system-x86_64 libvirtd virtqemud", "QEMU and libvirt")],
)
def test_no_lab_guest_starts_where_one_of_its_makers_is_missing(monkeypatch, hidden, missing):
    which = readiness.shutil.which
    monkeypatch.setattr(readiness.shutil, "which", lambda name, path=None: None if name in hidden.split() else which(name, path=path))
    said = checks()
    assert said["lab guests"] == ("fail", f"cannot start without {missing}")
    assert all(said[check][0] == "fail" for check in missing.split(" and "))


def test_where_they_are_it_says_what_runs_them(live):
    assert checks()["lab guests"][0] in ("pass", "warn")
