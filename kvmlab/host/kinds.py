"""What a thread is for, by its name and the kernel's flags for it.

Sources: the names that the kernel gives its threads (kthread_create() and smpboot_register_percpu_thread() calls; for
workers format_worker_id() and wq_worker_comm() in kernel/workqueue.c), Documentation/admin-guide/kernel-per-CPU-kthreads.rst,
flags in include/linux/sched.h, and QEMU's debug-threads=on, which libvirt always sets.
"""

from __future__ import annotations

import re

VCPU_NAME = re.compile(r"CPU (\d+)/(KVM|TCG)", re.ASCII)
PF_WQ_WORKER = 0x00000020  # a work queue's worker, or its rescuer
PF_KTHREAD = 0x00200000

_STEM = re.compile(r"[a-z_]*")  # "ksoftirqd/0" -> ksoftirqd, "kswapd1" -> kswapd, "irq/24-ACPI:Ged" -> irq
_FAMILIES = {
    **{stem: stem for stem in ("migration", "ksoftirqd", "cpuhp", "idle_inject", "irq", "irq_work", "ktimers", "watchdog")},
    **{stem: stem for stem in ("kthreadd", "kswapd", "kcompactd", "ksmd", "khugepaged", "khungtaskd", "kauditd", "kvm")},
    **{"ktimersoftd": "ktimers", "watchdogd": "kernel", "jbd": "jbd2"},
}
KINDS = tuple(sorted({*_FAMILIES.values(), "kworker", "rcu", "kernel", "vhost", "vcpu", "iothread", "emulator", "ordinary"}))
# One CPU's worker, a worker bound to none, or a rescuer; "+" or "-" and the queue follow while it serves one, and after
_WORKER = re.compile(r"kworker/(?:(?P<pool>u?\d*):\d+(?P<high>H?)(?:[-+](?P<queue>.+))?|R-(?P<rescued>[^+]+).*)", re.ASCII | re.DOTALL)


def kind(comm: str, flags: int, of_qemu: bool) -> str:
    """The family of a kernel thread; or vcpu, iothread, emulator, vhost and kvm, which serve a guest; or ordinary.

    Parameters
    ----------
    comm : str
        Name of the thread.
    flags : int
        Its flags: field 9 of proc(5) stat.
    of_qemu : bool
        Its process has a thread with the name of a vCPU.

    Examples
    --------
    >>> kind("rcu_preempt", PF_KTHREAD, False), kind("CPU 0/KVM", 0, True), kind("bash", 0, False)
    ('rcu', 'vcpu', 'ordinary')
    """
    if comm.startswith("vhost-"):
        return "vhost"  # a kernel thread before Linux 6.4, a thread of QEMU's process since
    if flags & PF_KTHREAD:
        return _family(comm, flags)
    if not of_qemu:
        return "ordinary"
    if VCPU_NAME.fullmatch(comm):
        return "vcpu"
    if comm.startswith("kvm-"):
        return "kvm"  # kvm-nx-lpage-recovery: in QEMU's process since Linux 6.13
    return "iothread" if comm.startswith("IO iothread") else "emulator"


def _family(comm: str, flags: int) -> str:
    stem = _STEM.match(comm)[0]
    if flags & PF_WQ_WORKER or comm.startswith("kworker/"):
        return "kworker"
    return "rcu" if stem.startswith("rcu") else _FAMILIES.get(stem, "kernel")


def worker(comm: str, flags: int) -> tuple[str | None, str | None]:
    """The pool and the queue of a work queue's worker; None for what its name does not say, and for all other threads.

    A queue's rescuer belongs to no pool; before Linux 6.8 its name is the queue's. Names may be cut at 15 bytes.

    Examples
    --------
    >>> worker("kworker/1:2H-kblockd", PF_KTHREAD | PF_WQ_WORKER), worker("kworker/u8:3", PF_KTHREAD | PF_WQ_WORKER)
    (('1H', 'kblockd'), ('u8', None))
    """
    if not flags & PF_KTHREAD or _family(comm, flags) != "kworker":
        return None, None
    match = _WORKER.fullmatch(comm)
    if match is None:
        return None, None if comm.startswith("kworker/") else comm
    if match["rescued"]:
        return None, match["rescued"]
    return match["pool"] + match["high"], match["queue"]
