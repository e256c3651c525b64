import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError
from kvmlab.guest.spec import GuestSpec

GOLDEN = Path(__file__).parent / "golden"
UUID = "6a1f1f3e-0000-4000-8000-000000000001"


@pytest.mark.parametrize("accel, vcpus", [("kvm", 2), ("tcg", 16)])
def test_the_domain_xml_is_the_golden_one(accel, vcpus):
    xml = GuestSpec("c1", vcpus, accel, "/opt/kvmlab/image.bin", UUID).xml()
    golden = GOLDEN / f"{accel}-{vcpus}.xml"
    if os.environ.get("KVMLAB_REGENERATE"):
        golden.write_text(xml)
    assert xml == golden.read_text()


@pytest.mark.parametrize("name", ["", "a b", "-c1", "c1\n", "a" * 51, "c/1", "<c1>", "ü", None, 7])
def test_a_name_that_a_shell_or_libvirt_would_misread_is_refused(name):
    with pytest.raises(KvmlabError, match="Guest name"):
        GuestSpec(name, 1, "tcg", "/image")


@pytest.mark.parametrize("vcpus", [0, 17, -1, 1.5, "2", True, None])
def test_a_number_of_vcpus_the_image_cannot_run_is_refused(vcpus):
    with pytest.raises(KvmlabError, match="1 to 16"):
        GuestSpec("c1", vcpus, "tcg", "/image")


@given(st.text(min_size=1, max_size=40))
def test_no_path_of_an_image_breaks_the_xml(path):
    import xml.etree.ElementTree as ET

    printable = "".join(character for character in path if character.isprintable())
    assert (ET.fromstring(GuestSpec("c1", 1, "tcg", printable).xml()).findtext("os/loader") or "") == printable
