import doctest
import subprocess

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host
from kvmlab.host import kinds
from kvmlab.host.kinds import PF_KTHREAD, PF_WQ_WORKER, kind, worker
from tests.conftest import need

WORKER = PF_KTHREAD | PF_WQ_WORKER
NAMES = {  # as seen in ps of several machines, whole or cut at 15 bytes
    "kthreadd": "kthreadd",
    "migration/0": "migration",
    "ksoftirqd/127": "ksoftirqd",
    "cpuhp/3": "cpuhp",
    "idle_inject/0": "idle_inject",
    "irq/24-ACPI:Ged": "irq",
    "irq_work/2": "irq_work",
    "ktimers/0": "ktimers",
    "ktimersoftd/0": "ktimers",
    "watchdog/1": "watchdog",
    "watchdogd": "kernel",
    "rcu_sched": "rcu",
    "rcu_preempt": "rcu",
    "rcu_tasks_rude_": "rcu",
    "rcu_exp_par_gp_kthread_worker/0": "rcu",
    "rcuc/1": "rcu",
    "rcuop/17": "rcu",
    "rcuog/0": "rcu",
    "rcub/0": "rcu",
    "kswapd1": "kswapd",
    "kcompactd0": "kcompactd",
    "ksmd": "ksmd",
    "khugepaged": "khugepaged",
    "khungtaskd": "khungtaskd",
    "kauditd": "kauditd",
    "jbd2/vda1-8": "jbd2",
    "kvm-pit/4711": "kvm",
    "kvm-nx-lpage-recovery-4711": "kvm",
    "vhost-4711": "vhost",
    "kdevtmpfs": "kernel",
    "scsi_eh_0": "kernel",
    "pool_workqueue_release": "kernel",
    "": "kernel",
}


@pytest.mark.parametrize("comm, family", NAMES.items())
def test_a_kernel_thread_has_the_family_of_its_name(comm, family):
    assert kind(comm, PF_KTHREAD, of_qemu=False) == family
    assert worker(comm, PF_KTHREAD) == (None, None)


@pytest.mark.parametrize("comm", [name for name in NAMES if not name.startswith("vhost-")])
def test_a_process_may_call_itself_like_a_kernel_thread_and_is_none(comm):
    assert kind(comm, 0, of_qemu=False) == "ordinary"


@pytest.mark.parametrize(
    "comm, of_qemu, expected",
    [
        ("CPU 0/KVM", True, "vcpu"),
        ("CPU 255/TCG", True, "vcpu"),
        ("CPU 0/KVM", False, "ordinary"),
        ("CPU 0/KVM x", True, "emulator"),
        ("IO iothread1", True, "iothread"),
        ("IO mon_iothread", True, "emulator"),
        ("qemu-system-x86", True, "emulator"),
        ("vhost-4711", True, "vhost"),
        ("kvm-nx-lpage-re", True, "kvm"),
    ],
)
def test_a_thread_of_qemu_is_named_for_its_part(comm, of_qemu, expected):
    assert kind(comm, 0, of_qemu) == expected


@pytest.mark.parametrize(
    "comm, pool, queue",
    [
        ("kworker/0:1", "0", None),
        ("kworker/1:2H-kblockd", "1H", "kblockd"),
        ("kworker/1:2H+kblockd", "1H", "kblockd"),
        ("kworker/127:0-events_power_efficient", "127", "events_power_efficient"),
        ("kworker/u8:3+events_unbound", "u8", "events_unbound"),
        ("kworker/u9:0-ext4-rsv-conversion", "u9", "ext4-rsv-conversion"),
        ("kworker/u16:4-flush-254:0", "u16", "flush-254:0"),
        ("kworker/u:3", "u", None),  # Linux before 3.9
        ("kworker/R-rcu_gp", None, "rcu_gp"),
        ("kworker/R-kblockd+kblockd", None, "kblockd"),
        ("kworker/R-mm_pe", None, "mm_pe"),  # cut at 15 bytes
        ("kworker/dying", None, None),
        ("kworker/", None, None),
        ("mm_percpu_wq", None, "mm_percpu_wq"),  # a rescuer before Linux 6.8
    ],
)
def test_the_name_of_a_worker_tells_its_pool_and_its_queue(comm, pool, queue):
    assert (kind(comm, WORKER, False), *worker(comm, WORKER)) == ("kworker", pool, queue)


@given(st.integers(0, 8191), st.integers(0, 999), st.booleans(), st.booleans(), st.sampled_from("+-"), st.text(min_size=1))
def test_whatever_a_queue_is_called_the_pool_is_found(cpu, number, high, bound, sign, queue):
    pool = f"{cpu}{'H' if high else ''}" if bound else f"u{cpu}"
    comm = f"kworker/{cpu}:{number}{'H' if high else ''}" if bound else f"kworker/u{cpu}:{number}"
    assert worker(f"{comm}{sign}{queue}", WORKER) == (pool, queue)


@given(st.text() | st.from_regex(r"kworker/.*|R-.*|CPU .*"), st.integers(0, 2**64), st.booleans())
def test_any_name_has_a_kind(comm, flags, of_qemu):
    assert kind(comm, flags, of_qemu) in {*NAMES.values(), "kworker", "vcpu", "iothread", "emulator", "ordinary"}
    pool, queue = worker(comm, flags)
    assert (pool is None and queue is None) or kind(comm, flags, of_qemu) in ("kworker", "vhost")


def kernel_threads() -> tuple[dict[int, str], object]:
    """What ps calls them, by tid, and our frame of the same moment."""
    text = subprocess.run(["ps", "--ppid", "2", "-o", "lwp=,args="], capture_output=True, text=True).stdout
    theirs = {int(tid): name.strip("[]") for tid, name in (line.split(maxsplit=1) for line in text.splitlines())}
    if not theirs:
        need("no kernel threads to be seen in this container")
    frame = Host().threads(affinity=True).set_index("tid")
    return theirs, frame[frame.index.isin(list(theirs))]


@pytest.mark.parametrize("family", ["migration", "ksoftirqd", "cpuhp", "kworker", "rcu", "kswapd", "irq"])
def test_this_machines_kernel_threads_have_the_families_that_ps_names(family):
    theirs, ours = kernel_threads()
    there = ours.index.tolist()  # workers come and go
    assert sorted(ours.index[ours["kind"] == family]) == [tid for tid in sorted(there) if theirs[tid].startswith(family)]
    assert family not in ("migration", "kworker") or (ours["kind"] == family).any()


def test_per_cpu_threads_may_use_the_cpu_of_their_name():
    _, ours = kernel_threads()
    for row in ours[ours["kind"].isin(["migration", "ksoftirqd", "cpuhp"])].itertuples():
        assert row.allowed_cpus == row.comm.split("/")[1]


def test_a_pool_is_the_cpu_that_its_workers_may_use_and_h_their_priority():
    _, ours = kernel_threads()
    bound = ours[ours["pool"].notna() & ~ours["pool"].str.startswith("u").fillna(False)]
    assert len(bound)
    for row in bound.itertuples():
        assert row.allowed_cpus == row.pool.removesuffix("H"), row
        assert (row.nice < 0) == row.pool.endswith("H"), row


def test_each_rescuer_and_each_busy_worker_names_a_queue():
    theirs, ours = kernel_threads()
    for tid, row in ours[ours["kind"] == "kworker"].iterrows():
        if row["comm"].startswith("kworker/"):  # before Linux 6.8, a rescuer is called as its queue
            assert pd.notna(row["queue"]) == ("-" in row["comm"] or "+" in row["comm"]), row
        if theirs[tid].startswith("kworker/R-"):
            assert theirs[tid].startswith(f"kworker/R-{row['queue']}")


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(kinds)
    assert result.attempted and not result.failed
