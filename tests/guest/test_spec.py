import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError
from kvmlab.guest.devices import qcow2, wanted
from kvmlab.guest.spec import GuestSpec

GOLDEN = Path(__file__).parent / "golden"
UUID = "6a1f1f3e-0000-4000-8000-000000000001"


@pytest.mark.parametrize("accel, vcpus", [("kvm", 2), ("tcg", 16)])
def test_the_domain_xml_is_the_golden_one(accel, vcpus):
    xml = GuestSpec("c1", vcpus, accel, "/opt/kvmlab/image.bin", "/run/kvmlab-c1", UUID).xml()
    golden = GOLDEN / f"{accel}-{vcpus}.xml"
    if os.environ.get("KVMLAB_REGENERATE"):
        golden.write_text(xml)
    assert xml == golden.read_text()


def test_a_guest_with_devices_is_the_golden_one():
    xml = GuestSpec("c1", 2, "kvm", "/opt/kvmlab/image.bin", "/run/kvmlab-c1", UUID, devices=True).xml()
    golden = GOLDEN / "kvm-2-devices.xml"
    if os.environ.get("KVMLAB_REGENERATE"):
        golden.write_text(xml)
    assert xml == golden.read_text()


@pytest.mark.parametrize("name", ["", "a b", "-c1", "c1\n", "a" * 51, "c/1", "<c1>", "ü", None, 7])
def test_a_name_that_a_shell_or_libvirt_would_misread_is_refused(name):
    with pytest.raises(KvmlabError, match="Guest name"):
        GuestSpec(name, 1, "tcg", "/image", "/run/kvmlab-c1")


@pytest.mark.parametrize("vcpus", [0, 65, -1, 1.5, "2", True, None])
def test_a_number_of_vcpus_the_image_cannot_run_is_refused(vcpus):
    with pytest.raises(KvmlabError, match="1 to 64"):
        GuestSpec("c1", vcpus, "tcg", "/image", "/run/kvmlab-c1")


@pytest.mark.parametrize("devices", ["disk", "ALL", "", True, False, ["all"], 1])
def test_other_devices_than_all_are_refused_and_the_word_is_named(devices):
    with pytest.raises(KvmlabError, match=re.escape(f"devices={devices!r}: write 'all'")):
        wanted(devices)


def test_devices_are_all_or_none():
    assert wanted("all") and not wanted(None)


@given(st.integers(1, 512 << 20))
def test_a_disks_header_says_its_size_and_where_its_tables_are(size):
    """docs/interop/qcow2.txt: size at byte 24, clusters' table at 40, reference counts' table at 48, in clusters of 64 KiB."""
    image = qcow2(size)
    assert image[:8] == b"QFI\xfb\0\0\0\x03" and len(image) == 4 * 65536
    assert [int.from_bytes(image[at : at + 8]) for at in (24, 40, 48)] == [size, 3 * 65536, 65536]


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="QEMU's own disk checker is in a package that nothing here needs")
def test_qemu_finds_nothing_wrong_with_a_disk(tmp_path):
    (tmp_path / "disk.qcow2").write_bytes(qcow2(1 << 20))
    assert subprocess.run(["qemu-img", "check", tmp_path / "disk.qcow2"], capture_output=True).returncode == 0


@given(st.text(min_size=1, max_size=40))
def test_no_path_of_an_image_breaks_the_xml(path):
    import xml.etree.ElementTree as ET

    printable = "".join(character for character in path if character.isprintable())
    assert (ET.fromstring(GuestSpec("c1", 1, "tcg", printable, "/run/kvmlab-c1").xml()).findtext("os/loader") or "") == printable
