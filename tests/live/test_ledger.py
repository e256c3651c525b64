"""Where the time of real vCPUs goes: the ledger beside libvirt, the wall clock, and the guest's own work."""

import re
import subprocess
import threading
import time
from typing import NamedTuple

import pandas as pd
import pytest

from kvmlab import KvmlabError, Lab, measure, plots
from tests.conftest import need


@pytest.fixture(params=["auto", "tcg"])
def lab(request, live):
    """KVM where it is good for the lab guest, and TCG."""
    with Lab(accel=request.param) as lab:
        if request.param == "auto" and lab.accel == "tcg":
            pytest.skip(f"the same as TCG: {lab.accel_reason}")
        yield lab


def of(frame: pd.DataFrame, guest: str) -> pd.DataFrame:
    return frame[frame["guest"] == guest].reset_index(drop=True)


class Watched(NamedTuple):
    accel: str
    samples: pd.DataFrame
    run_s: tuple[float, float]  # of vCPU 0, before and after libvirt was asked
    domstats: str


@pytest.fixture(scope="module", params=["auto", "tcg"])
def watched(request, live) -> Watched:
    """Two seconds of a guest with a vCPU that spins and one that is idle."""
    with Lab(accel=request.param) as lab:
        if request.param == "auto" and lab.accel == "tcg":
            pytest.skip(f"the same as TCG: {lab.accel_reason}")
        lab.start("ledger-a", vcpus=2).work("spin", vcpus=0)
        before = of(lab.vcpus(), "ledger-a")["run_s"][0]
        samples = of(lab.sample(seconds=2, hz=20), "ledger-a")
        said = subprocess.run(["virsh", "domstats", "--vcpu", "ledger-a"], capture_output=True, text=True, check=True).stdout
        return Watched(lab.accel, samples, (before, of(lab.vcpus(), "ledger-a")["run_s"][0]), said)


def test_the_time_of_busy_and_idle_vcpus_is_explained(watched):
    book = measure.ledger(watched.samples)
    assert book["accel"].tolist() == [watched.accel] * 2
    assert book["residual_pct"].abs().max() < 5
    busy, idle = book.iloc[0], book.iloc[1]
    assert busy["run_s"] + busy["run_delay_s"] == pytest.approx(busy["seconds"], rel=0.05) and busy["blocked_s"] < 0.2
    assert idle["blocked_s"] > 0.8 * idle["seconds"]
    mode = "guest_s" if watched.accel == "kvm" else "user_s"
    assert busy[mode] > 0.5 * busy["run_s"]
    assert pd.isna(busy["exits_per_s"]) == (watched.accel == "tcg")


def test_two_busy_guests_on_one_cpu_share_it_and_are_explained(lab):
    for name in ("ledger-a", "ledger-b"):
        lab.start(name).work("spin")
    lab.plan({("ledger-a", 0): "0", ("ledger-b", 0): "0"}).apply()
    book = measure.ledger(lab.sample(seconds=2, hz=20))
    pair = book[book["guest"].isin(["ledger-a", "ledger-b"])]
    assert pair["residual_pct"].abs().max() < 5 and pair["cpu"].tolist() == [0, 0]
    assert pair["run_delay_s"].min() > 0.3 * pair["seconds"].min()


def test_time_that_no_counter_explains_is_reported(watched):
    samples = watched.samples.query("vcpu == 0").reset_index(drop=True)
    samples["run_s"] = samples["run_s"].iloc[0] + (samples["run_s"] - samples["run_s"].iloc[0]) / 2
    run = measure.ledger(samples)["run_s"][0]
    assert measure.ledger(samples)["residual_s"][0] == pytest.approx(run, abs=0.15)  # as much as was taken away


def test_cpu_time_is_that_of_libvirt(watched):
    libvirts = int(re.search(r"vcpu\.0\.time=(\d+)", watched.domstats)[1]) / 1e9
    before, after = watched.run_s
    assert before < libvirts + 0.05 and libvirts - 0.05 <= after  # it was asked in between, and counts in hundredths


def test_work_done_is_in_proportion_to_time_run(lab):
    lab.start("ledger-a").work("spin")
    other = lab.start("ledger-b")
    lab.plan({("ledger-a", 0): "0", ("ledger-b", 0): "0"}).apply()

    def turns_a_second_run() -> float:
        rate = measure.rates(lab.sample(seconds=0.6)).set_index("guest").loc["ledger-a"]
        return rate["turns_per_s"] / (rate["run_pct"] / 100)

    ratios = []
    for _ in range(3):  # hosts are noisy: the median of three
        other.work("idle")
        alone = turns_a_second_run()
        other.work("spin")
        ratios.append(turns_a_second_run() / alone)
    assert sorted(ratios)[1] == pytest.approx(1, abs=0.05)


def test_guests_that_come_and_go_are_in_the_sample_for_as_long_as_they_ran(lab):
    lab.start("ledger-a").work("spin")
    with measure.Sampler(lab, hz=20) as sampler:
        second = lab.start("ledger-b")
        second.work("spin")
        time.sleep(1.5)
        second.destroy()
        time.sleep(0.3)
        assert len(sampler.frame()) > 0
    samples = sampler.frame()
    assert threading.active_count() == len(threading.enumerate()) and not any("sampler" in t.name for t in threading.enumerate())
    a, b = of(samples, "ledger-a"), of(samples, "ledger-b")
    assert len(a) > len(b) > 3 and b["turns"].notna().any()
    assert a["time_s"].max() > b["time_s"].max() and a["time_s"].min() < b["time_s"].min()
    assert set(measure.ledger(samples)["guest"]) >= {"ledger-a", "ledger-b"}
    sampler.stop()  # once more does nothing
    with pytest.raises(KvmlabError, match="has run already"):
        sampler.run(1)


def test_a_paused_guest_is_asleep(lab):
    lab.start("ledger-a").work("spin")
    lab.domain("ledger-a").suspend()
    row = of(measure.ledger(lab.sample(seconds=0.5, hz=20)), "ledger-a").iloc[0]
    assert row["blocked_s"] == pytest.approx(row["seconds"], rel=0.1) and row["run_s"] < 0.05
    lab.domain("ledger-a").resume()


def test_a_lab_closed_while_it_is_sampled_is_no_error(lab):
    lab.start("ledger-a")
    with measure.Sampler(lab, hz=50) as sampler:
        time.sleep(0.2)
        lab.close()
        time.sleep(1.2)
    assert len(of(sampler.frame(), "ledger-a")) >= 2


def test_ctrl_c_ends_a_sample_and_keeps_it(lab, monkeypatch, capsys):
    lab.start("ledger-a")
    watch = measure.sampler.Watch.rows
    calls = []

    def interrupted(self):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return watch(self)

    monkeypatch.setattr(measure.sampler.Watch, "rows", interrupted)
    samples = lab.sample(seconds=30, hz=50)
    assert samples.attrs["stopped"] and len(of(samples, "ledger-a")) == 5
    assert "kept" in capsys.readouterr().err


def test_modes_of_workloads_are_measured_and_all_is_idle_afterwards(lab):
    first, second = lab.start("ledger-a"), lab.start("ledger-b", vcpus=2)
    modes = measure.modes(lab, ["idle", "spin"], seconds=0.4, repeats=2)
    assert (modes.groupby(["guest", "workload"])["mode"].nunique() >= 5).all()  # one that ran too little to tell modes apart has one more
    assert set(modes["workload"]) == {"idle", "spin"} and set(modes["guest"]) == {"ledger-a", "ledger-b"}
    shares = modes.set_index(["guest", "workload", "mode"])["share"]
    for guest in ("ledger-a", "ledger-b"):
        assert shares[guest, "idle", "blocked"] > 0.8
        ran = "running" if (guest, "spin", "running") in shares else "guest" if lab.accel == "kvm" else "user"
        assert shares[guest, "spin", ran] + shares[guest, "spin", "waiting"] > 0.8
    assert {g.page.work(0) for g in (first, second)} == {"idle"}
    assert "ledger-b" in plots.modes_in_words(modes)
    first.work("spin")
    with pytest.raises(KvmlabError, match="snip"):
        measure.modes([first, second], ["spin", "snip"], seconds=0.1)
    assert {g.page.work(0) for g in (first, second)} == {"idle"}


def test_a_guest_destroyed_while_its_modes_are_measured_is_an_error_that_says_so(lab):
    first, second = lab.start("ledger-a"), lab.start("ledger-b")
    timer = threading.Timer(0.8, first.destroy)
    timer.start()
    with pytest.raises(KvmlabError, match="'ledger-a' is gone"):
        measure.modes([first, second], ["spin"], seconds=0.5, repeats=3)
    timer.join()
    assert second.page.work(0) == "idle"


def test_exits_are_those_that_kvm_counts(watched):
    exits = measure.exits(watched.samples).query("vcpu == 0").set_index("reason")["exits_per_s"]
    if watched.accel == "tcg":
        assert exits.empty and "ledger-a" in measure.exits(watched.samples).attrs["unavailable"]["exits_per_s"]
        return
    need(None if "all" in exits else "this libvirt, QEMU or kernel passes no statistics of KVM on")
    assert exits["all"] > 0
    assert {f"vcpu.0.{reason}_exits.sum" for reason in exits.index if reason not in ("all", "other")} <= set(
        re.findall(r"vcpu\S+\.sum", watched.domstats)
    )
