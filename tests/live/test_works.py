"""The works of the lab guest, on KVM where it is, and on TCG."""

import os
import time

import pytest

from kvmlab import KvmlabError
from kvmlab.guest.microguest.page import WORK, wait_until

RUNNING = [work for work in WORK if work not in ("idle", "stop")]


@pytest.fixture(params=["kvm", "tcg"])
def either(request, live):
    """A Lab of each kind."""
    from kvmlab import Lab

    try:
        lab = Lab(accel=request.param)
    except KvmlabError as error:
        pytest.skip(f"no KVM here: {error}")
    with lab:
        yield lab


def turns(guest, work: str) -> list[int]:
    rows = guest.counters()
    return rows.loc[rows["work"] == work, "turns"].tolist()


def test_every_work_is_taken_up_done_and_left_again(either):
    guest = either.start("kw-a", vcpus=2)
    for work in RUNNING:
        chosen = [0] if work == "ipi" else [0, 1]
        guest.work(work, vcpus=chosen)
        before = turns(guest, work)
        assert wait_until(lambda: all(turns(guest, work)[v] > before[v] + 2 for v in chosen), 10), work  # noqa: B023
        assert either.vcpus().query("guest == 'kw-a'")["work"].tolist()[: len(chosen)] == [work] * len(chosen)
        guest.work("idle")
        after = turns(guest, work)
        time.sleep(0.05)
        assert turns(guest, work) == after, work


def test_an_idle_guest_costs_nothing(either):
    guest = either.start("kw-a", vcpus=2)
    woken, before = turns(guest, "idle"), either.vcpus().query("guest == 'kw-a'")["run_s"].sum()
    time.sleep(2)
    assert turns(guest, "idle") == woken  # nobody woke it
    assert either.vcpus().query("guest == 'kw-a'")["run_s"].sum() - before < 0.002


def test_work_of_one_vcpu_leaves_the_others_as_they_are(either):
    guest = either.start("kw-a", vcpus=4)
    guest.work("spin", vcpus=[1])
    guest.work("cpuid", vcpus=[2])
    assert either.vcpus().query("guest == 'kw-a'")["work"].tolist() == ["idle", "spin", "cpuid", "idle"]


def test_cpuid_is_what_the_hypervisor_shows_this_vcpu(either):
    guest = either.start("kw-a", vcpus=2)
    _, ebx, ecx, edx = guest.cpuid(0x40000000)
    signature = b"".join(register.to_bytes(4, "little") for register in (ebx, ecx, edx)).rstrip(b"\0")
    assert signature == {"kvm": b"KVMKVMKVM", "tcg": b"TCGTCGTCGTCG"}[either.accel]
    guest.work("spin")
    assert [guest.cpuid(1, vcpu=v)[1] >> 24 for v in (0, 1)] == [0, 1]  # asked while busy: each has its own APIC id
    assert either.vcpus().query("guest == 'kw-a'")["work"].tolist() == ["spin", "spin"]
    for wrong in ({"leaf": -1}, {"leaf": 1 << 32}, {"leaf": "1"}, {"leaf": 1, "subleaf": 1.5}, {"leaf": 1, "vcpu": 2}):
        with pytest.raises(KvmlabError, match=r"write a number|no vCPU 2"):
            guest.cpuid(**wrong)


def test_an_interrupt_reaches_the_vcpu_it_was_sent_to(either):
    guest = either.start("kw-a", vcpus=3)
    guest.work("ipi", vcpus=0, parameter=2)
    assert wait_until(lambda: guest.page.interrupts(2) > 10, 10)
    assert guest.page.interrupts(1) == 0


def test_ping_pong_passes_the_ball_in_turns(either):
    guest = either.start("kw-a", vcpus=2)
    guest.work("ping-pong")
    assert wait_until(lambda: min(turns(guest, "ping-pong")) > 100, 10)
    guest.work("idle")
    first, second = turns(guest, "ping-pong")
    assert abs(first - second) <= 1


def test_a_stopped_vcpu_is_stopped_for_good_and_says_so(either):
    guest = either.start("kw-a", vcpus=2)
    guest.work("stop", vcpus=1)
    with pytest.raises(KvmlabError, match="vCPU 1 was stopped for good"):
        guest.work("spin")
    guest.work("spin", vcpus=0)


def test_sixty_four_vcpus_come_up_and_work(either):
    guest = either.start("kw-a", vcpus=64)
    assert [guest.cpuid(1, vcpu=v)[1] >> 24 for v in (0, 31, 63)] == [0, 31, 63]
    guest.work("cpuid", vcpus=[63])
    assert wait_until(lambda: turns(guest, "cpuid")[63] > 10, 10)


def test_a_processor_without_long_mode_answers_and_spins(either):
    guest = either.start("kw-a", vcpus=2, cpu="qemu32")
    assert guest.page.bits() == 32 and not guest.cpuid(0x80000001)[3] >> 29 & 1
    guest.work("spin")
    before = turns(guest, "spin")
    assert wait_until(lambda: all(now > then for now, then in zip(turns(guest, "spin"), before, strict=True)), 10)
    guest.work("idle")
    with pytest.raises(KvmlabError, match="32-bit processor, on which the lab guest knows idle, spin only"):
        guest.work("cpuid")


def shared_cpu(lab) -> tuple:
    """Two guests that spin on one CPU, and what each waited for from the outside and felt from the inside, over two seconds."""
    cpu = lab.vcpus()["allowed_cpus"].iloc[0].split("-")[-1].split(",")[-1] if len(lab.vcpus()) else "0"
    guests = [lab.start(name) for name in ("kw-a", "kw-b")]
    lab.plan({(guest.name, 0): cpu for guest in guests}).apply()
    for guest in guests:
        guest.work("spin")

    def read():
        delay = lab.vcpus().query("guest == 'kw-a'")["run_delay_s"].iloc[0]
        return delay, guests[0].gaps()["summed_s"].iloc[0], guests[0].steal()["steal_s"].iloc[0]

    first = read()
    time.sleep(2)
    return [later - earlier for later, earlier in zip(read(), first, strict=True)]


def test_what_a_vcpu_feels_inside_is_what_it_waited_for_outside(either):
    delay, gaps, steal = shared_cpu(either)
    assert delay > 0.5
    assert abs(gaps - delay) < 0.1 * delay
    if either.accel == "kvm":
        assert abs(steal - delay) < 0.1 * delay


def test_a_guest_without_steal_record_gives_na_with_the_reason(tcg_lab):
    steal = tcg_lab.start("kw-a").steal()
    assert steal["steal_s"].isna().all() and steal.attrs["unavailable"]["steal_s"] == "only KVM writes a steal record"


@pytest.mark.parametrize("percent", [20, 60])
def test_a_guest_on_duty_runs_for_its_part_of_the_time(either, percent):
    guest = either.start("kw-a", pins=str(max(os.sched_getaffinity(0))))
    guest.work("duty", parameter=percent)
    before, begin = either.vcpus().query("guest == 'kw-a'").iloc[0], time.monotonic()
    time.sleep(1.5)
    after, spent = either.vcpus().query("guest == 'kw-a'").iloc[0], time.monotonic() - begin
    ran, waited = (after[name] - before[name] for name in ("run_s", "run_delay_s"))
    assert ran / spent < percent / 100 + 0.08  # what it costs to halt and to be woken
    assert ran / spent > percent / 100 * 0.9 - waited / spent


def test_the_times_between_turns_are_as_many_as_the_turns(either):
    guest = either.start("kw-a")
    guest.work("spin")
    time.sleep(0.3)
    guest.work("duty")
    time.sleep(0.3)
    guest.work("idle")
    done = sum(guest.page.turns(0)[WORK[work]] for work in ("spin", "duty"))
    tails = guest.tails()
    assert done <= tails["count"].sum() <= done * 1.02 + 100  # one more whenever it looks at the clock and stops
    assert (tails["from_s"].iloc[1:].to_numpy() == tails["to_s"].iloc[:-1].to_numpy()).all() and tails["to_s"].isna().tolist()[-1]
