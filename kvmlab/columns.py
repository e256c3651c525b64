"""The one table of every frame's columns: name, dtype, unit, meaning, source.

`frame` builds all of kvmlab's frames from it, so that an empty one has the same columns and dtypes as a full one, and
`documents` writes it into the docstrings of the functions that return them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pandas as pd


class Column(NamedTuple):
    name: str
    dtype: str
    unit: str
    meaning: str
    source: str


def _column(text: str) -> Column:
    return Column(*(part.strip() for part in text.split("|")))


def _table(text: str) -> tuple[Column, ...]:
    return tuple(_column(line) for line in text.strip().splitlines())


FRAMES: dict[str, tuple[Column, ...]] = {
    "threads": _table("""
        ruser    | string  |   | real user of the process, or its number where it has no name | proc(5) status: Uid
        pid      | Int64   |   | process                                                      | /proc
        ppid     | Int64   |   | its parent                                                   | proc(5) stat, field 4
        tid      | Int64   |   | thread (LWP)                                                 | /proc/PID/task
        cpu      | Int64   |   | host CPU it last ran on                                      | proc(5) stat, field 39
        state    | string  |   | R running or runnable, S and D sleeping, Z dead, ...         | proc(5) stat, field 3
        comm     | string  |   | the thread's own name                                        | proc(5) stat, field 2
        args     | string  |   | command line of its process, [comm] where it has none        | proc(5) cmdline
        kind     | string  |   | vcpu, emulator, iothread, vhost, ordinary or a kernel family: kworker, ... | names and flags, host/kinds.py
        pool     | string  |   | of a kworker: its CPU (H: high priority), or u and a number: any CPU | name of the thread
        queue    | string  |   | of a kworker: the work queue it serves or served last        | name of the thread
        user_s   | Float64 | s | CPU time in user mode so far, without guest time             | proc(5) stat, fields 14 and 43
        kernel_s | Float64 | s | CPU time in the kernel so far                                | proc(5) stat, field 15
        guest_s  | Float64 | s | CPU time in guest mode so far                                | proc(5) stat, field 43
        nice     | Int64   |   | -20 (goes first) to 19; NA under fifo, rr, deadline and idle | proc(5) stat, field 19
        policy   | string  |   | other, fifo, rr, batch, idle, deadline or ext                | proc(5) stat, field 41; sched(7)
        priority | Int64   |   | of the real-time policies, 1 to 99; 0 for all others         | proc(5) stat, field 40
        allowed_cpus | string |  | host CPUs it may use; read only when asked for              | proc(5) status: Cpus_allowed_list
    """),
    "cpus": _table("""
        cpu       | Int64   |     | host CPU, by its OS number                              | /sys/devices/system/cpu/cpuN
        online    | boolean |     | it can run threads                                      | /sys/devices/system/cpu/online
        node      | Int64   |     | NUMA node                                               | cpuN/nodeM
        socket    | Int64   |     | physical package                                        | topology/physical_package_id
        die       | Int64   |     | die within the socket                                   | topology/die_id
        cluster   | Int64   |     | cluster of cores                                        | topology/cluster_id
        core      | Int64   |     | core; numbers repeat, the key is (socket, die, core)    | topology/core_id
        smt       | Int64   |     | which of its core's threads, from 0                     | topology/core_cpus_list
        l1d       | Int64   |     | level 1 data cache, numbered by first CPU               | cache/indexN/shared_cpu_list
        l1i       | Int64   |     | level 1 instruction cache                               | cache/indexN/shared_cpu_list
        l2        | Int64   |     | level 2 cache                                           | cache/indexN/shared_cpu_list
        l3        | Int64   |     | level 3 cache                                           | cache/indexN/shared_cpu_list
        min_mhz   | Float64 | MHz | lowest frequency                                        | cpufreq/cpuinfo_min_freq
        max_mhz   | Float64 | MHz | highest frequency                                       | cpufreq/cpuinfo_max_freq
        capacity  | Int64   |     | computing power, 1024 for the strongest core            | cpuN/cpu_capacity
        isolated  | boolean |     | left out of load balancing at boot; more: isolation()   | /sys/devices/system/cpu/isolated
        nohz_full | boolean |     | no tick while one thread runs                           | /sys/devices/system/cpu/nohz_full
    """),
    "threads_per_cpu": _table("""
        cpu     | Int64  |  | host CPU they last ran on                | proc(5) stat, field 39
        kind    | string |  | as in threads                            | names and flags, see host/kinds.py
        threads | Int64  |  | how many                                 | counted
        running | Int64  |  | of these, running or ready to run        | proc(5) stat, field 3
    """),
    "support": _table("""
        check  | string |  | what was looked at                                                   | kvmlab
        status | string |  | pass, warn, fail or unknown; as far as it matters to KVM guests       | kvmlab
        found  | string |  | what is there                                                        | see source
        source | string |  | where it was read                                                    | kvmlab
        advice | string |  | what to do about it; NA where nothing is to be done                  | kvmlab
    """),
    "flags": _table("""
        flag    | string |  | as the kernel names it                                       | /proc/cpuinfo
        cpus    | string |  | the host CPUs that have it                                   | /proc/cpuinfo
        group   | string |  | virtualization, simd, crypto, security, ...                  | host/flags.txt
        meaning | string |  | what it is for                                               | host/flags.txt
    """),
    "kvm": _table("""
        module    | string |  | kvm, or the part of it for this processor          | /sys/module
        parameter | string |  | its name                                           | /sys/module/MODULE/parameters
        value     | string |  | as the kernel writes it                            | /sys/module/MODULE/parameters
        meaning   | string |  | what it is for                                     | host/kvm.py
    """),
    "caches": _table("""
        cache    | Int64  |     | as in cpus(): numbered by first CPU, level and type by themselves  | cache/indexN/shared_cpu_list
        level    | Int64  |     | 1 is nearest to the core                                           | cache/indexN/level
        type     | string |     | Data, Instruction or Unified                                       | cache/indexN/type
        size_kib | Int64  | KiB | its size                                                           | cache/indexN/size
        ways     | Int64  |     | ways of associativity                                              | cache/indexN/ways_of_associativity
        line_b   | Int64  | B   | bytes a line                                                       | cache/indexN/coherency_line_size
        cpus     | string |     | the online host CPUs that share it                                 | cache/indexN/shared_cpu_list
    """),
    "nodes": _table("""
        node          | Int64  |     | NUMA node                                            | /sys/devices/system/node/nodeN
        cpus          | string |     | its online host CPUs; empty where it has only memory | nodeN/cpulist
        mem_total_kib | Int64  | KiB | its memory                                           | nodeN/meminfo: MemTotal
        mem_free_kib  | Int64  | KiB | of that, unused                                      | nodeN/meminfo: MemFree
        hugepages     | Int64  |     | huge pages set aside on it, of all sizes             | nodeN/hugepages
        hugepages_kib | Int64  | KiB | the memory in them                                   | nodeN/hugepages
    """),
    "cpu_times": _table("""
        time_s       | Float64 | s | when the row was read, on the monotonic clock        | clock_gettime(2)
        cpu          | Int64   |   | host CPU                                             | proc(5) stat: cpuN
        user_s       | Float64 | s | user mode so far, without guest time                 | proc(5) stat: user, guest
        nice_s       | Float64 | s | the same of niced threads                            | proc(5) stat: nice, guest_nice
        kernel_s     | Float64 | s | kernel so far                                        | proc(5) stat: system
        idle_s       | Float64 | s | nothing to do so far                                 | proc(5) stat: idle
        iowait_s     | Float64 | s | nothing to do, a disk being waited for               | proc(5) stat: iowait
        irq_s        | Float64 | s | interrupts                                           | proc(5) stat: irq
        softirq_s    | Float64 | s | soft interrupts                                      | proc(5) stat: softirq
        steal_s      | Float64 | s | had work and did not run: its own hypervisor's doing | proc(5) stat: steal
        guest_s      | Float64 | s | guest mode: its vCPU threads running guest code      | proc(5) stat: guest
        guest_nice_s | Float64 | s | the same of niced threads                            | proc(5) stat: guest_nice
    """),
    "isolation": _table("""
        cpu              | Int64   |  | host CPU                                                         | /sys/devices/system/cpu/cpuN
        isolcpus         | boolean |  | left out of load balancing at boot                               | /sys/devices/system/cpu/isolated
        isolcpus_flags   | string  |  | domain, managed_irq, nohz, as given to isolcpus                  | /proc/cmdline
        managed_irq      | boolean |  | kept free of managed interrupts, where they can be               | /proc/cmdline: isolcpus
        nohz_full        | boolean |  | no tick while one thread runs                                    | /sys/devices/system/cpu/nohz_full
        rcu_nocbs        | boolean |  | its RCU callbacks run elsewhere                                  | /proc/cmdline: rcu_nocbs
        cpuset_partition | string  |  | the cpuset that has it to itself, and how: /vms (isolated)       | cgroup v1 and v2 cpuset
        irqs             | string  |  | numbers of the interrupts that go there                        | /proc/irq/N/effective_affinity_list
    """),
    "subsystems": _table("""
        subsystem | string |  | cpu, memory, storage, network or display             | kvmlab
        device    | string |  | what the guest sees                                  | libvirt's XML of the running guest
        served_by | string |  | the QEMU thread or object that does its work         | names of QEMU's threads and objects
        pid       | Int64  |  | the process it is part of                            | /proc/PID/cmdline
        tid       | Int64  |  | the thread that does its work; NA for none or several | /proc/PID/task
        behind    | string |  | the file, socket or memory behind it on the host     | /proc/PID/fd
        found_by  | string |  | how that was found, to be typed                      | kvmlab
    """),
    "layers": _table("""
        layer    | string |  | module, device, vm, vcpu, thread, process, domain, daemon or client | kvmlab
        vcpu     | Int64  |  | the vCPU that a file descriptor or thread belongs to      | names of QEMU's threads, in order
        what     | string |  | what is there; NA under TCG, which uses nothing of KVM   | see found_by
        id       | string |  | its number, with the kind of it: fd 9, tid 4711, pid 4700 | see found_by
        detail   | string |  | what else there is to say of it                          | see found_by
        exits    | Int64  |  | how often the vCPU has left guest mode so far            | virDomainListGetStats: vcpu.N.exits.sum
        found_by | string |  | how that was found, to be typed                          | kvmlab
    """),
    "guests": _table("""
        guest   | string  |     | name of the guest                                          | virDomainGetName
        state   | string  |     | running, paused, ...                                       | virDomainGetState
        vcpus   | Int64   |     | vCPUs it has                                               | threads of its QEMU process
        pid     | Int64   |     | its QEMU process                                           | /proc/PID/cmdline holds its UUID
        accel   | string  |     | kvm or tcg                                                 | names of its vCPU threads
        owned   | boolean |     | started by this Lab                                        | the Lab
        mem_kib | Int64   | KiB | memory it was given                                        | virDomainGetInfo
        boots   | Int64   |     | starts since power-on; more than 1: resets survived        | the lab guest's control page
    """),
    "numbers": _table("""
        guest   | string |  | name of the guest                                              | virDomainGetName
        vcpu    | Int64  |  | number within its guest, for libvirt and QEMU                  | name of the thread
        asked   | string |  | socket:die:core:thread that its XML asks for                   | libvirt's XML: cpu/topology
        qemu    | string |  | socket:die:core:thread that QEMU gave it                       | QMP: query-cpus-fast
        seen    | string |  | socket:die:core:thread that it sees itself                     | its CPUID
        apic_id | Int64  |  | number of its interrupt controller, from which it sees that    | its CPUID, leaf 1
        node    | Int64  |  | its NUMA cell                                                  | QMP: query-cpus-fast
        tid     | Int64  |  | the thread that runs it                                        | /proc/PID/task
        cpu     | Int64  |  | the host CPU it last ran on                                    | proc(5) stat, field 39
    """),
    "compared_topology": _table("""
        vcpu  | Int64   |  | number within its guest                                       | kvmlab
        asked | string  |  | socket:die:core:thread that was asked for                     | the caller
        seen  | string  |  | socket:die:core:thread that the guest sees; counted within the level above | its CPUID
        same  | boolean |  | no difference                                                 | kvmlab
    """),
    "vcpus": _table("""
        time_s       | Float64 | s | when the row was read, on the monotonic clock             | clock_gettime(2)
        guest        | string  |   | name of the guest                                         | virDomainGetName
        vcpu         | Int64   |   | number within its guest                                   | name of the thread
        pid          | Int64   |   | the guest's QEMU process                                  | /proc/PID/cmdline
        tid          | Int64   |   | the thread that runs this vCPU                            | /proc/PID/task
        cpu          | Int64   |   | host CPU it last ran on                                   | proc(5) stat, field 39
        state        | string  |   | of the thread: R running or runnable, S sleeping, ...     | proc(5) stat, field 3
        allowed_cpus | string  |   | host CPUs the kernel lets it use                          | sched_getaffinity(2)
        user_s       | Float64 | s | CPU time in user mode so far, without guest time          | proc(5) stat, fields 14 and 43
        kernel_s     | Float64 | s | CPU time in the kernel so far                             | proc(5) stat, field 15
        guest_s      | Float64 | s | CPU time in guest mode so far; none under TCG             | proc(5) stat, field 43
        run_s        | Float64 | s | exact CPU time so far                                     | proc(5) schedstat, field 1
        run_delay_s  | Float64 | s | time so far that it could run and waited for a host CPU   | proc(5) schedstat, field 2
        migrations   | Int64   |   | moves to another host CPU so far                          | /proc/PID/task/TID/sched: se.nr_migrations
        work         | string  |   | what the lab guest's vCPU does                            | the lab guest's control page
        turns        | Int64   |   | turns of work done so far, of all kinds                   | the lab guest's control page
    """),
    "counters": _table("""
        guest | string |  | name of the guest                  | the Lab
        vcpu  | Int64  |  | number within its guest            | the lab guest's control page
        work  | string |  | kind of work                       | the lab guest's control page
        turns | Int64  |  | turns of it done so far            | the lab guest's control page
    """),
    "steal": _table("""
        guest   | string  |   | name of the guest                                     | the Lab
        vcpu    | Int64   |   | number within its guest                               | the lab guest's control page
        steal_s | Float64 | s | time so far that it could run and did not             | KVM's steal record: MSR_KVM_STEAL_TIME
    """),
    "gaps": _table("""
        guest     | string  |   | name of the guest                                                 | the Lab
        vcpu      | Int64   |   | number within its guest                                           | the lab guest's control page
        longest_s | Float64 | s | longest time between two turns since it took up its work          | its time stamp counter
        summed_s  | Float64 | s | sum so far of all times between two turns beyond some 0.1 ms      | its time stamp counter
        gaps      | Int64   |   | how many of them                                                  | its time stamp counter
    """),
    "delta": _table("""
        guest            | string  |      | name of the guest                                      | measure.delta
        vcpu             | Int64   |      | number within its guest                                | measure.delta
        seconds          | Float64 | s    | length of the interval                                 | measure.delta
        run_pct          | Float64 | %    | share of the interval that it ran                      | run_s
        run_delay_pct    | Float64 | %    | share of the interval that it waited for a host CPU    | run_delay_s
        migrations_per_s | Float64 | 1/s  | moves to another host CPU                              | migrations
        turns_per_s      | Float64 | 1/s  | turns of work                                          | turns
    """),
    "residency": _table("""
        guest | string  |   | name of the guest                                                | measure.residency
        vcpu  | Int64   |   | number within its guest                                          | measure.residency
        cpu   | Int64   |   | host CPU                                                         | measure.residency
        run_s | Float64 | s | how long the vCPU ran there; the host CPU is as sampled          | run_s and cpu
        share | Float64 |   | the same, as a part of all the time it ran                       | run_s and cpu
    """),
    "ledger": _table("""
        guest          | string  |     | name of the guest                                              | measure.ledger
        vcpu           | Int64   |     | number within its guest                                        | measure.ledger
        tid            | Int64   |     | the thread that runs this vCPU                                 | measure.ledger
        accel          | string  |     | kvm or tcg                                                     | name of the thread
        cpu            | Int64   |     | host CPU it ran on most                                        | run_s and cpu of the samples
        seconds        | Float64 | s   | wall clock from its first to its last sample                   | time_s of the samples
        run_s          | Float64 | s   | exact CPU time                                                 | proc(5) schedstat, field 1
        user_s         | Float64 | s   | part of it in user mode, guest time not counted                | proc(5) stat, scaled to run_s
        kernel_s       | Float64 | s   | part of it in the kernel                                       | proc(5) stat, scaled to run_s
        guest_s        | Float64 | s   | part of it in guest mode; none under TCG                       | proc(5) stat, scaled to run_s
        run_delay_s    | Float64 | s   | could run and waited for a host CPU                            | proc(5) schedstat, field 2
        blocked_s      | Float64 | s   | halted, or asleep for another reason: an estimate              | as blocked_source says
        blocked_source | string  |     | how blocked_s was found                                        | measure.ledger
        blocked_error_s | Float64 | s  | half of its 95 % interval, each sample taken for a draw        | Wilson's interval
        residual_s     | Float64 | s   | seconds that none of run_s, run_delay_s, blocked_s explain     | measure.ledger
        residual_pct   | Float64 | %   | the same, as a part of all seconds                             | measure.ledger
        halt_s         | Float64 | s   | halted, as KVM counts it when a halt ends, waking up and all   | KVM's halt_wait_ns
        exits_per_s    | Float64 | 1/s | times that it left guest mode                                  | KVM's exits
    """),
    "exits": _table("""
        guest       | string  |     | name of the guest                                                | measure.exits
        vcpu        | Int64   |     | number within its guest                                          | measure.exits
        reason      | string  |     | as KVM names it; other: those that it counts under no reason     | KVM's statistics
        exits_per_s | Float64 | 1/s | how often it left guest mode for that reason                     | KVM's statistics
    """),
    "modes": _table("""
        guest       | string  |     | name of the guest                                                | measure.modes
        accel       | string  |     | kvm or tcg                                                       | the guest's Lab
        workload    | string  |     | what its vCPUs did                                               | Guest.work
        mode        | string  |     | guest, user, kernel, waiting or blocked; running: it ran too little to say in which | measure.ledger
        share       | Float64 |     | of the wall clock: the median of all runs                        | measure.ledger
        low         | Float64 |     | lower end of the median's 95 % interval                          | bootstrap over the runs
        high        | Float64 |     | its upper end                                                    | bootstrap over the runs
        repeats     | Int64   |     | runs that gave a share                                           | measure.modes
        turns_per_s | Float64 | 1/s | turns of work of the whole guest: the median of all runs         | the lab guest's control page
    """),
    "moves": _table("""
        guest        | string  |     | name of the guest                                                     | Lab.migrate
        accel        | string  |     | kvm or tcg                                                            | the guest's Lab
        vcpus        | Int64   |     | vCPUs it has                                                          | Lab.migrate
        source       | string  |     | host that it left                                                     | Lab.migrate
        destination  | string  |     | host that it came to                                                  | Lab.migrate
        seconds      | Float64 | s   | how long the move took, from asking for it to libvirt's answer        | clock_gettime(2)
        pause_s      | Float64 | s   | how long the guest stood still: between the last turn there and the first here, of its last vCPU | its turns, read about a thousand times a second
        gap_s        | Float64 | s   | longest time between two turns meanwhile, as the guest sees it itself | its time stamp counter
        downtime_s   | Float64 | s   | how long libvirt says that it stood still                             | virDomainGetJobStats: downtime
        memory_kib   | Float64 | KiB | memory to be moved, also QEMU's own for its devices                   | virDomainGetJobStats: memory_total
        sent_kib     | Float64 | KiB | what was sent for it                                                  | virDomainGetJobStats: memory_processed
        pages_sent   | Int64   |     | pages sent, those that were sent again too                            | virDomainGetJobStats: memory_normal
        pages_zero   | Int64   |     | pages of zeros, of which only that was told                           | virDomainGetJobStats: memory_constant
        rounds       | Int64   |     | passes over the memory                                                | virDomainGetJobStats: memory_iteration
        pages_again  | Int64   |     | of all these, pages that were told again, for they were written to meanwhile | virDomainGetJobStats
    """),
    "migration": _table("""
        time_s | Float64 | s | when it was read, on the monotonic clock                       | clock_gettime(2)
        guest  | string  |   | name of the guest                                              | Lab.migrate
        vcpu   | Int64   |   | number within its guest                                        | Lab.migrate
        host   | string  |   | where it ran then                                              | in which QEMU's memory its turns rise
        turns  | Int64   |   | turns of work done so far, of all kinds                        | the lab guest's control page
    """),
    "pingpong": _table("""
        cpu_a         | Int64   |    | host CPU that vCPU 0 was pinned to                                | measure.pingpong
        cpu_b         | Int64   |    | host CPU that vCPU 1 was pinned to; not below cpu_a               | measure.pingpong
        relation      | string  |    | nearest of same CPU, SMT siblings, same cluster (or L2), same L3, same node, across nodes | Host.cpus
        repeat        | Int64   |    | which run of this pair, from 0                                    | measure.pingpong
        round_trips   | Int64   |    | times that the cache line went to and fro                         | the lab guest's control page
        seconds       | Float64 | s  | length of the run                                                 | clock_gettime(2)
        round_trip_ns | Float64 | ns | one round trip: the run's mean                                    | seconds and round_trips
        waited_s      | Float64 | s  | of the run, both vCPUs together: could run and waited for their host CPU | proc(5) schedstat, field 2
    """),
    "cpu_models": _table("""
        arch        | string  |  | architecture, as `uname -m` says it                         | as asked
        model       | string  |  | its name                                                    | virConnectGetCPUModelNames
        vendor      | string  |  | of the processors that it is like: Intel, AMD, IBM, ...     | cpu_map, or domain capabilities
        kvm         | boolean |  | KVM here can give all its flags, as libvirt says            | domain capabilities: usable
        tcg         | boolean |  | TCG can                                                     | domain capabilities: usable
        kvm_missing | string  |  | the flags in KVM's way; empty: none                         | <blockers>, or QEMU: query-cpu-definitions
        tcg_missing | string  |  | the flags in TCG's way                                      | <blockers>, or QEMU: query-cpu-definitions
        deprecated  | boolean |  | not to be used any more                                     | domain capabilities: deprecated
        alias_of    | string  |  | the version of the model that QEMU takes for the name       | QEMU: query-cpu-definitions
        versions    | string  |  | all versions of it, with the names that stand for them      | QEMU: query-cpu-definitions
        inherits    | string  |  | the model that it takes its flags over from                 | cpu_map
        features    | Int64   |  | how many flags it has, inherited ones too                   | cpu_map
    """),
    "cpu_expansion": _table("""
        model    | string  |  | the named model that libvirt makes of it                                | virConnectBaselineHypervisorCPU
        flag     | string  |  | by libvirt's name                                                       | virConnectBaselineHypervisorCPU
        possible | boolean |  | KVM or TCG here can give it                                             | the same, and of host-model
        origin   | string  |  | model, added (beyond the model), or taken out (of it)                   | virConnectBaselineHypervisorCPU
    """),
    "asked_got": _table("""
        guest   | string  |  | name of the guest                                                 | the Lab
        flag    | string  |  | by libvirt's name                                                 | cpu_map
        linux   | string  |  | as a Linux inside would show it in /proc/cpuinfo; several may be  | guest/cpuid_flags.txt
        asked   | boolean |  | the <cpu> element of its XML asks for it, by model or by name     | virDomainGetXMLDesc, cpu_map
        live    | boolean |  | libvirt believes that the guest has it                            | virDomainGetXMLDesc, live
        got     | boolean |  | the guest's own CPUID shows it                                    | CPUID
        verdict | string  |  | got, dropped, added, or not told (by CPUID)                       | asked and got
        why     | string  |  | as far as libvirt's view tells it                                 | live
    """),
    "cpu_trials": _table("""
        accel    | string  |  | kvm or tcg                                                        | the Lab
        model    | string  |  | as asked                                                          | cpu_table.trials
        match    | string  |  | as asked; NA: left out, which is "exact"                          | cpu_table.trials
        check    | string  |  | as asked; NA: left out, and libvirt chooses                       | cpu_table.trials
        fallback | string  |  | as asked; NA: left out, which is "allow"                          | cpu_table.trials
        starts   | boolean |  | a guest came up with it                                           | virDomainCreateXML
        words    | string  |  | those in which libvirt refused                                    | virDomainCreateXML
        becomes  | string  |  | the model that the running guest has in libvirt's eyes            | virDomainGetXMLDesc
        got      | Int64   |  | how many flags the guest's CPUID shows                            | CPUID
        added    | string  |  | flags that it has and that were not asked                         | CPUID, cpu_map
        dropped  | string  |  | flags that were asked and that it has not                         | CPUID, cpu_map
    """),
    "will_start": _table("""
        model   | string  |  | CPU model                                                                  | libvirt's cpu_map
        host    | string  |  | name of the host                                                           | Host.name
        starts  | boolean |  | the host has all of its flags; NA: only unknown ones are in question       | flags against cpu_map
        missing | string  |  | flags that stand in the way, as the kernel names them; empty: none         | flags against cpu_map
        unknown | string  |  | flags of it that the host may have: /proc/cpuinfo does not show them       | flags against cpu_map
        vendor  | string  |  | whose model it is; NA: anybody's                                           | libvirt's cpu_map
        host_vendor | string |  | whose processor the host has                                            | /proc/cpuinfo: vendor_id
    """),
    "will_migrate": _table("""
        source     | string  |  | name of the host that the guest runs on                                 | Host.name
        target     | string  |  | name of the host that it is to move to                                  | Host.name
        moves      | boolean |  | same vendor, and the target has all that a guest can have of the source | flags of both
        in_the_way | string  |  | flags that the target lacks, as the kernel names them; empty: none      | flags of both
        best_model | string  |  | the CPU model of most flags that both have; NA between vendors          | flags of both, libvirt's cpu_map
    """),
}


def frame(rows: Iterable[tuple], kind: str, unavailable: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A frame of `kind` from tuples in the table's order; None becomes NA.

    ``frame.attrs["unavailable"]`` says, by column, why values are missing: what `unavailable` says, and for any other
    column without a single value, which source gave none.
    """
    columns = FRAMES[kind]
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    result = pd.DataFrame({c.name: _array(v, c.dtype) for c, v in zip(columns, values, strict=True)}, copy=False)
    silent = [c for c, v in zip(columns, values, strict=True) if v and pd.isna(v[0]) and result[c.name].isna().all()]
    result.attrs["unavailable"] = {c.name: f"this machine gives none: {c.source}" for c in silent} | dict(unavailable or {})
    return result


def _array(values: tuple, dtype: str) -> pd.api.extensions.ExtensionArray:
    """As pd.array, which takes several times as long over None as over a value; a column that begins with None has many."""
    if not values or values[0] is not None:
        return pd.array(list(values), dtype=dtype)
    present = [i for i, value in enumerate(values) if value is not None]
    array = pd.array([None], dtype=dtype).repeat(len(values))
    array[present] = pd.array([values[i] for i in present], dtype=dtype)
    return array


def documents(kind: str) -> Callable:
    """Write the columns of `kind` at the end of the decorated function's docstring, after its blank line."""

    def decorate(function: Callable) -> Callable:
        function.__doc__ = (function.__doc__ or "").rstrip() + "\n" + _section(kind)
        return function

    return decorate


def _section(kind: str) -> str:
    lines = [f"        {c.name} : {c.dtype}{f', {c.unit}' if c.unit else ''}\n            {c.meaning} ({c.source})" for c in FRAMES[kind]]
    return "\n        Columns\n        -------\n" + "\n".join(lines) + "\n        "
