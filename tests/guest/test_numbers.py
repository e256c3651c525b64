"""What the XML of guests that others started says of their vCPUs."""

import pytest

from kvmlab.guest.numbers import asked_places


@pytest.mark.parametrize(
    ("topology", "places"),
    [
        ("", ["0:0:0:0", "1:0:0:0", "2:0:0:0", "3:0:0:0"]),
        ("<topology sockets='2' cores='1' threads='2'/>", ["0:0:0:0", "0:0:0:1", "1:0:0:0", "1:0:0:1"]),
        ("<topology sockets='2' dies='1' clusters='1' cores='2' threads='1'/>", ["0:0:0:0", "0:0:1:0", "1:0:0:0", "1:0:1:0"]),
        ("<topology sockets='1' dies='1' clusters='2' cores='2' threads='1'/>", []),  # no number of ours is a cluster's
    ],
)
def test_each_vcpu_has_a_place_also_where_others_are_not_there_yet(topology, places):
    xml = f"<domain><vcpu current='2'>4</vcpu><vcpus><vcpu id='3' enabled='yes'/></vcpus><cpu>{topology}</cpu></domain>"
    assert list(asked_places(xml).values()) == places
