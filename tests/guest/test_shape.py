"""What lab.start makes of pins and of "host-like", on hosts that this machine is not."""

import pandas as pd
import pytest

from kvmlab import Host
from kvmlab.columns import FRAMES, frame
from kvmlab.guest import shape as shapes
from kvmlab.guest.shape import shape
from kvmlab.guest.topology import Topology
from tests.conftest import REPOSITORY


def cpus_of(text: str) -> pd.DataFrame:
    rows = []
    for cpu, (socket, die, core, smt) in enumerate(Topology.parse(text).places()):
        known = {"cpu": cpu, "online": True, "socket": socket, "die": die, "core": core, "smt": smt}
        rows.append(tuple(known.get(column.name) for column in FRAMES["cpus"]))
    return frame(rows, "cpus")


@pytest.fixture
def on(monkeypatch):
    def here(cpus: pd.DataFrame) -> None:
        monkeypatch.setattr(shapes, "Host", lambda: type("Host", (), {"cpus": lambda self: cpus})())

    return here


@pytest.mark.parametrize(
    ("host", "guest"),
    [
        ("2x1x20x2", "1x1x20x2"),
        ("4x1x8x2", "4x1x8x2"),
        ("1x2x40x1", "1x1x40x1"),
        ("1x4x12x2", "1x2x12x2"),
        ("2x1x48x2", "1x1x32x2"),
        ("3x1x1x1", "3x1x1x1"),
    ],
)
def test_a_guest_like_a_large_host_has_as_many_whole_parts_as_fit(on, host, guest):
    on(cpus_of(host))
    asked = shape(None, "host-like", None, None, None)
    assert (str(asked.topology), asked.vcpus, asked.pins) == (guest, Topology.parse(guest).vcpus, None)


def test_a_recorded_host_of_128_cpus_is_halved(on):
    on(Host.open(REPOSITORY / "tests/hosts/x86_64-4n4s16c2t.tar.xz").cpus())
    assert str(shape(None, "host-like", None, None, None).topology) == "2x1x16x2"


def test_pins_keep_the_order_in_which_they_are_written_but_for_a_host_like_guest(on):
    on(cpus_of("1x1x4x2"))
    assert shape(None, None, None, None, "5,0-2,^1,7").pins == [5, 0, 2, 7]
    assert shape(None, "host-like", None, None, "5,4,1,0").pins == [0, 1, 4, 5]
