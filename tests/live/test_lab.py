"""Guests for real: what the frames say is what virsh, taskset and QEMU's monitor say."""

import os
import re
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kvmlab import KvmlabError, Lab, cpulist, measure
from kvmlab.guest.microguest import page
from kvmlab.guest.spec import MEMORY_MIB


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_guests_come_up_work_and_are_gone_afterwards(live):
    with Lab() as lab:
        guest = lab.start("kl-a", vcpus=2)
        guest.work("spin")
        rows = lab.vcpus()
        assert rows["work"].tolist() == ["spin", "spin"] and rows["guest"].tolist() == ["kl-a"] * 2
        pid = rows["pid"][0]
        assert said("virsh", "domuuid", "kl-a").strip() == guest.uuid
    assert not guest.process.alive()
    assert not os.path.exists(f"/proc/{pid}/exe")
    with pytest.raises(KvmlabError, match="closed"):
        lab.vcpus()
    assert "closed before" in lab.close()


def test_vcpus_are_those_of_virsh_taskset_and_the_monitor(lab):
    lab.start("kl-a", vcpus=3).work("spin")
    lab.plan({("kl-a", 0): "0", ("kl-a", 2): "0"}).apply()
    rows = lab.vcpus()
    monitor = said("virsh", "qemu-monitor-command", "--hmp", "kl-a", "info cpus")
    assert re.findall(r"CPU #(\d+): thread_id=(\d+)", monitor) == [(str(r.vcpu), str(r.tid)) for r in rows.itertuples()]
    affinities = re.findall(r"CPU Affinity:\s+([y-]+)", said("virsh", "vcpuinfo", "kl-a"))
    assert [cpulist.format(n for n, y in enumerate(text) if y == "y") for text in affinities] == rows["allowed_cpus"].tolist()
    for row in rows.itertuples():
        assert cpulist.parse(said("taskset", "-pc", str(row.tid)).split(": ")[1]) == cpulist.parse(row.allowed_cpus)


def test_counters_rise_and_agree_with_each_other(lab):
    guest = lab.start("kl-a", vcpus=1)
    guest.work("spin")
    before = lab.vcpus()
    time.sleep(1)
    after = lab.vcpus()
    rates = measure.delta(before, after)
    assert rates["turns_per_s"][0] > 1000
    assert rates["run_pct"][0] + rates["run_delay_pct"][0] == pytest.approx(100, abs=5)  # a spinning vCPU runs or waits
    ticks = (after[["user_s", "kernel_s", "guest_s"]].sum(axis=1) - before[["user_s", "kernel_s", "guest_s"]].sum(axis=1))[0]
    assert ticks == pytest.approx((after["run_s"] - before["run_s"])[0], abs=0.1)
    assert guest.counters().set_index("work").loc["spin", "turns"] >= after["turns"][0] - guest.counters()["turns"][0]


def test_work_is_set_for_each_vcpu_and_acknowledged(lab):
    guest = lab.start("kl-a", vcpus=16)
    guest.work("spin", vcpus=[1, 15])
    assert lab.vcpus()["work"].tolist() == ["spin" if vcpu in (1, 15) else "idle" for vcpu in range(16)]
    guest.work("idle", vcpus=15)
    time.sleep(0.2)  # the call that it took up its work by may wake it once more
    turns = lab.vcpus()["turns"]
    time.sleep(0.2)
    later = lab.vcpus()["turns"]
    assert later[15] == turns[15] and later[1] > turns[1]  # an idle vCPU sleeps until it is called
    for wrong in ({"work": "spni"}, {"work": "spin", "vcpus": 16}, {"work": "spin", "vcpus": ["0"]}):
        with pytest.raises(KvmlabError, match=r"knows idle, spin|has no vCPU"):
            guest.work(**wrong)


def test_a_reset_is_survived_and_counted(lab):
    guest = lab.start("kl-a", vcpus=2)
    guest.work("spin")
    time.sleep(0.2)
    turns = lab.vcpus()["turns"].tolist()
    lab.domain("kl-a").reset()
    assert page.wait_until(lambda: guest.page.boots() == 2 and not guest.page.silent(), 3)
    time.sleep(0.2)
    assert lab.vcpus()["work"].tolist() == ["spin", "spin"] and lab.guests()["boots"].tolist() == [2]
    assert all(now > then for now, then in zip(lab.vcpus()["turns"], turns, strict=True))


@pytest.mark.parametrize("accel", ["auto", "tcg"])
def test_leaving_ring_3_resets_nothing(live, accel):
    with Lab(accel=accel) as lab:
        guest = lab.start("kl-a", vcpus=2)
        for _ in range(5):
            guest.work("spin")
            guest.work("idle")
        assert lab.guests()["boots"].tolist() == [1]


def test_a_guest_that_stops_on_an_exception_says_where(tcg_lab):
    guest = tcg_lab.start("kl-a", vcpus=2)
    guest.page._ram[0x8000:0x8002] = b"\x0f\x0b"  # ud2, where ring 3 starts
    begin = time.monotonic()
    with pytest.raises(KvmlabError, match=r"vCPU 1 stopped on exception 6 at 0x8000"):
        guest.work("spin", vcpus=1)
        guest.work("idle", vcpus=1)
    assert time.monotonic() - begin < 5


def test_a_guest_that_is_sent_an_nmi_says_where_it_was(lab):
    guest = lab.start("kl-a", vcpus=2)
    lab.domain("kl-a").injectNMI()
    assert page.wait_until(guest.page.panics, 2)
    with pytest.raises(KvmlabError, match=r"'kl-a': vCPU \d stopped on exception 2 at 0xf.*QEMU's log ends"):
        guest.work("spin")


def test_an_image_that_never_answers_is_an_error_and_leaves_nothing(live, monkeypatch):
    monkeypatch.setattr("kvmlab.guest.guest.ANSWER_S", 1)
    with Lab(accel="tcg") as lab, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        lab._image = os.path.join(folder, "silent.bin")
        with open(lab._image, "wb") as image:
            image.write(b"\xf4" * 65536)  # hlt, from end to end
        begin = time.monotonic()
        with pytest.raises(KvmlabError, match=r"does not answer: vCPUs \[0, 1\] did not come up"):
            lab.start("kl-a", vcpus=2)
        assert time.monotonic() - begin < 10
        assert lab.guests().empty and "kl-a" not in said("virsh", "list", "--all", "--name")


def test_a_missing_image_is_an_error_that_names_it(live):
    with Lab(accel="tcg") as lab:
        lab._image = "/nowhere/image.bin"
        with pytest.raises(KvmlabError, match=r"/nowhere/image\.bin"):
            lab.start("kl-a")


def test_a_taken_name_is_an_error_and_the_first_guest_goes_on(live):
    with Lab() as first, Lab() as second:
        guest = first.start("kl-a")
        guest.work("spin")
        with pytest.raises(KvmlabError, match="The name 'kl-a' is taken"):
            second.start("kl-a")
        second._refuse_taken = lambda name: None  # as if both had looked at the same moment
        with pytest.raises(KvmlabError, match="already exists"):
            second.start("kl-a")
        assert "kl-a" in second.guests()["guest"].tolist()
        second.close()
        guest.check()
        turns = first.vcpus()["turns"][0]
        assert turns > 0


def test_another_labs_guest_is_watched_and_not_touched(live):
    with Lab() as first, Lab() as second:
        first.start("kl-a").work("spin")
        row = second.guests().set_index("guest").loc["kl-a"]
        assert not row["owned"] and second.vcpus()["turns"].isna().all()
        assert "control page" in second.vcpus().attrs["unavailable"]["turns"]
        with pytest.raises(KvmlabError, match="allow_changes=True"):
            second.plan({("kl-a", 0): "0"}).apply()
        with Lab(allow_changes=True) as third:
            third.plan({("kl-a", 0): "0"}).apply()
            assert first.vcpus()["allowed_cpus"][0] == "0"
        assert first.vcpus()["allowed_cpus"][0] == cpulist.format(os.sched_getaffinity(0))


def test_emulation_is_named_and_has_no_guest_time(tcg_lab):
    tcg_lab.start("kl-a").work("spin")
    time.sleep(0.3)
    assert tcg_lab.guests()["accel"].tolist() == ["tcg"] and tcg_lab.vcpus().attrs["accel"] == "tcg"
    assert tcg_lab.vcpus()["guest_s"].tolist() == [0]


def test_a_sample_sees_guests_come_and_go(lab):
    lab.start("kl-a").work("spin")
    samples = lab.sample(seconds=0.5, hz=20)
    assert samples.attrs["missed"] + len(samples) == 11 and samples["time_s"].is_monotonic_increasing
    share = measure.residency(samples)["share"]
    assert share.sum() == pytest.approx(1)
    assert "kl-a vCPU 0 ran on CPU" in measure.in_words(samples)
    for wrong in ({"seconds": 0}, {"hz": 1000}, {"seconds": 1e9}):
        with pytest.raises(KvmlabError, match="sample"):
            lab.sample(**wrong)


def test_no_guests_is_an_empty_frame_with_all_columns(lab):
    others = lab.guests()["guest"].tolist()
    assert [g for g in others if g.startswith("kl-")] == []
    assert lab.vcpus().dtypes["run_s"] == "Float64" and lab.sample(0.1).dtypes["turns"] == "Int64"


def test_a_guest_is_what_its_spec_says(lab):
    lab.start("kl-a", vcpus=2)
    domain = ET.fromstring(said("virsh", "dumpxml", "kl-a"))
    assert (domain.findtext("vcpu"), domain.findtext("os/loader")) == ("2", str(lab._image))
    assert int(domain.findtext("memory")) == MEMORY_MIB * 1024 and domain.find("memoryBacking/source").get("type") == "memfd"
    assert Path(domain.find("devices/serial/source").get("path")).is_socket()


def test_an_unknown_uri_is_an_error_that_says_what_works():
    with pytest.raises(KvmlabError, match="libvirt does not answer at nonsense:///"):
        Lab("nonsense:///")
