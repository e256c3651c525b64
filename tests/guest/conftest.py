"""The Linux guest, built once for all tests."""

import shutil

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import linux
from kvmlab.guest.linux import LinuxImage, Shape
from tests.conftest import need


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> LinuxImage:
    if not shutil.which(Shape.program):
        need(f"no {Shape.program}")
    try:
        return linux.build(tmp_path_factory.mktemp("linux-guest"))
    except KvmlabError as error:
        need(f"no Linux guest here: {error}")
