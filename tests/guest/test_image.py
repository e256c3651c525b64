"""The lab guest's image against its source, and the host's idea of its memory against the image's own."""

import re
import shutil
import subprocess

import pytest

from kvmlab.guest.microguest import page
from tests.conftest import need

SOURCE = page.IMAGE.with_suffix(".s")


def build(source, folder) -> bytes:
    run = dict(cwd=folder, check=True, capture_output=True)
    subprocess.run(["as", "--64", "-o", "image.o", str(source)], **run)
    subprocess.run(["ld", "-Ttext=0xF0000", "--oformat", "binary", "-e", "rom", "-o", "image.bin", "image.o"], **run)
    return (folder / "image.bin").read_bytes()


def test_the_committed_image_is_what_its_source_builds(tmp_path):
    if not (shutil.which("as") and shutil.which("ld")):
        need("no binutils")
    assert build(SOURCE, tmp_path) == page.IMAGE.read_bytes()
    assert len(page.IMAGE.read_bytes()) == 64 * 1024


def test_the_source_names_the_commands_that_build_it():
    assert "as --64 -o image.o image.s && ld -Ttext=0xF0000 --oformat binary -e rom -o image.bin image.o" in SOURCE.read_text()


def in_source() -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(r"\.set (\w+),\s+(0x[0-9a-f]+|\d+)\s", SOURCE.read_text())}


OFFSETS = [name for name in vars(page) if re.fullmatch("CTRL|LEAVES|SLOTS|SLOT_SIZE|AREA_KIB|[CS]_[A-Z0-9]+", name)]


@pytest.mark.parametrize("name", OFFSETS)
def test_host_and_guest_agree_on_the_memory_map(name):
    assert vars(page)[name] == in_source()[name]


def test_host_and_guest_agree_on_the_kinds_of_work():
    assert len(OFFSETS) >= 10
    assert {f"W_{name.upper().replace('-', '_')}": number for name, number in page.WORK.items()} == {
        name: number for name, number in in_source().items() if name.startswith("W_")
    }
