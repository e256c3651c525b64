"""KVM's settings: the parameters of its modules.

Source: /sys/module/MODULE/parameters, Documentation/ABI/stable/sysfs-module; Linux Documentation/admin-guide/kernel-parameters.txt and the
sources of KVM, those newer than 6.18 included. What a vendor added to its own kernel has no meaning here.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmlab.host.sysroot import SysRoot


def rows(root: SysRoot) -> Iterator[tuple]:
    """All parameters of KVM's modules that are loaded or built in, in the order of columns.FRAMES["kvm"]."""
    for module in sorted(name for name in root.list("sys/module") if name == "kvm" or name.startswith(("kvm_", "kvm-"))):
        place = f"sys/module/{module}/parameters"
        for parameter in sorted(root.list(place)):
            value = root.read(f"{place}/{parameter}")
            yield (module, parameter, value, MEANINGS.get((module.replace("-", "_"), parameter)))


def _table(text: str) -> dict[tuple[str, str], str]:
    lines = (line.partition("|") for line in text.strip().splitlines())
    return {(module, name): meaning.strip() for names, _, meaning in lines for module, name in [names.split()]}


MEANINGS = _table("""
    kvm allow_unsafe_mappings | a guest may map memory that the host cannot take back safely, such as unpinned device memory
    kvm eager_page_split | split huge pages at once when dirty pages are to be tracked, as in live migration, not when first written
    kvm enable_pmu | guests may have performance counters
    kvm enable_virt_at_load | switch the CPUs' virtualization on when the module loads, not with the first guest
    kvm enable_vmware_backdoor | guests may use VMware's I/O port
    kvm flush_on_reuse | flush translations when a guest's page table root is used again, to look for bugs
    kvm force_emulation_prefix | a prefix makes KVM emulate an instruction, for tests of KVM
    kvm halt_poll_ns | how long, at most, a host CPU watches a vCPU that fell idle before it sleeps: wakes sooner, burns CPU time
    kvm halt_poll_ns_grow | factor by which that time grows after a wake-up that came just too late; 0: does not grow
    kvm halt_poll_ns_grow_start | the time it starts to grow from, in ns
    kvm halt_poll_ns_shrink | divisor by which that time shrinks after it was spent in vain; 0: back to nothing at once
    kvm ignore_msrs | a guest that uses an unknown register reads 0 instead of getting a fault
    kvm kvmclock_periodic_sync | correct the paravirtual clock of guests every few minutes
    kvm lapic_timer_advance | fire the guest's timer a little early, to make up for the way into the guest; tuned by itself
    kvm lapic_timer_advance_ns | how much earlier to fire the guest's timer; -1: tuned by itself
    kvm min_timer_period_us | the shortest period that a guest may ask its timer for
    kvm mitigate_smt_rsb | guests may not halt a CPU without an exit: some AMD CPUs leak predicted returns between SMT threads
    kvm mmio_caching | remember which guest addresses are devices, so that access to them is told apart quickly
    kvm nx_huge_pages | huge pages are not executable to guests, against the iTLB multihit bug (N: not done; never: cannot be set)
    kvm nx_huge_pages_recovery_period_ms | how often pages split for that reason are put together again; 0: chosen by KVM
    kvm nx_huge_pages_recovery_ratio | one in so many of them is put together each time; 0: none
    kvm pi_inject_timer | the guest's timer interrupts come from another host CPU and need no exit; by itself only with nohz_full
    kvm report_ignored_msrs | log what ignore_msrs let pass
    kvm tdp_mmu | the newer, more parallel code for nested paging
    kvm tsc_tolerance_ppm | by how many millionths a guest's time stamp counter may be off before it is scaled
    kvm vector_hashing | spread interrupts of lowest priority over vCPUs by their number
    kvm diag9c_forwarding_hz | s390x: how many times a second a vCPU's wish to yield to another is passed on; 0: never
    kvm halt_poll_max_steal | s390x: no watching as in halt_poll_ns once this percentage of time is stolen
    kvm hpage | s390x: guests may have pages of 1 MiB; excludes nested
    kvm nested | s390x: guests may run guests of their own; excludes hpage
    kvm use_gisa | s390x: interrupts of adapters reach running guests without exits
    kvm_intel allow_smaller_maxphyaddr | guests may be told of fewer physical address bits than the host has
    kvm_intel cet | guests may use control-flow enforcement: shadow stacks and marked jump targets
    kvm_intel dump_invalid_vmcs | log the control structure that the CPU refused
    kvm_intel emulate_invalid_guest_state | emulate guest code that the CPU cannot run, such as real mode on old CPUs
    kvm_intel enable_apicv | each vCPU has an interrupt controller in hardware: fewer exits
    kvm_intel enable_device_posted_irqs | interrupts of assigned devices go straight to the vCPU
    kvm_intel enable_ipiv | vCPUs interrupt each other without exits
    kvm_intel enable_mediated_pmu | guests own the host's performance counters while they run
    kvm_intel enable_shadow_vmcs | guest hypervisors use their control structure without exits
    kvm_intel enlightened_vmcs | under Hyper-V, its faster form of the control structure
    kvm_intel ept | nested paging: the CPU translates guest addresses itself; without it, slow shadow pages
    kvm_intel eptad | nested paging sets accessed and dirty bits by itself
    kvm_intel error_on_inconsistent_vmcs_config | refuse to load where CPUs differ in what their virtualization can do
    kvm_intel fasteoi | handle the guest's end of interrupt without emulating the instruction
    kvm_intel flexpriority | the guest's task priority without an exit for each access
    kvm_intel nested | guests may run guests of their own
    kvm_intel nested_early_check | let the CPU check a guest hypervisor's settings before its guest is entered
    kvm_intel ple_gap | PAUSEs closer than so many cycles count as one loop; 0: loops are not watched
    kvm_intel ple_window | cycles a vCPU may spin in such a loop before it exits and another may run
    kvm_intel ple_window_grow | factor by which that window grows after each such exit
    kvm_intel ple_window_max | the largest window
    kvm_intel ple_window_shrink | divisor by which the window shrinks when the vCPU runs anew; 0: back to ple_window
    kvm_intel pml | the CPU logs pages that a guest dirties; helps live migration
    kvm_intel preemption_timer | the guest's timer is a counter in the CPU: no host timer needed
    kvm_intel pt_mode | Processor Trace: 0 traces host and guests together, 1 gives guests their own
    kvm_intel sgx | guests may have SGX enclaves
    kvm_intel tdx | guests may be sealed off from the host by TDX
    kvm_intel unrestricted_guest | real mode and unpaged guest code run in hardware
    kvm_intel vmentry_l1d_flush | empty the first-level data cache before a guest is entered, against L1TF: never, cond, always
    kvm_intel vnmi | the CPU keeps track of the guest's non-maskable interrupts
    kvm_intel vpid | cached translations carry the vCPU's number, so that entries and exits need no flush
    kvm_intel warn_on_missed_cc | warn when the CPU refuses what KVM's own checks of a nested guest let pass
    kvm_amd avic | each vCPU has an interrupt controller in hardware: fewer exits
    kvm_amd ciphertext_hiding_asids | how many SEV-SNP guests can also hide their encrypted memory from the host
    kvm_amd debug_swap | debug registers of SEV-ES guests are switched by the CPU
    kvm_amd dump_invalid_vmcb | log the control structure that the CPU refused
    kvm_amd enable_device_posted_irqs | interrupts of assigned devices go straight to the vCPU
    kvm_amd enable_ipiv | vCPUs interrupt each other without exits
    kvm_amd enable_mediated_pmu | guests own the host's performance counters while they run
    kvm_amd force_avic | use AVIC even where the CPU does not report it
    kvm_amd intercept_smi | system management interrupts make a guest exit
    kvm_amd lbrv | branch records belong to the guest while it runs
    kvm_amd nested | guests may run guests of their own
    kvm_amd npt | nested paging: the CPU translates guest addresses itself; without it, slow shadow pages
    kvm_amd nrips | after an exit the CPU names the guest's next instruction
    kvm_amd pause_filter_count | PAUSEs a vCPU may run in a loop before it exits and another may run
    kvm_amd pause_filter_count_grow | factor by which that count grows after each such exit
    kvm_amd pause_filter_count_max | the largest count
    kvm_amd pause_filter_count_shrink | divisor by which the count shrinks when the vCPU runs anew; 0: back to pause_filter_count
    kvm_amd pause_filter_thresh | PAUSEs further apart than so many cycles begin a new loop; 0: all count
    kvm_amd sev | guests may have encrypted memory
    kvm_amd sev_es | guests may have encrypted registers too
    kvm_amd sev_snp | guests may be protected from changes of their memory by the host too
    kvm_amd tsc_scaling | guests may see the time stamp counter at another speed
    kvm_amd vgif | guest hypervisors mask all interrupts without exits
    kvm_amd vls | guest hypervisors run VMLOAD and VMSAVE without exits
    kvm_amd vnmi | the CPU keeps track of the guest's non-maskable interrupts
    kvm_pvm cpuid_intercept | CPUID of guests is caught, where the CPU can do so
    kvm_hv dynamic_mt_modes | POWER8: into how many parts a core may be split for guests: 0 (never), 2, 4 or 6 (2 or 4)
    kvm_hv h_ipi_redirect | a wake-up between vCPUs may go to a free host core
    kvm_hv indep_threads_mode | POWER9: each thread of a core runs guests by itself
    kvm_hv kvm_irq_bypass | interrupts of assigned devices take a short way
    kvm_hv nested | guests may run guests of their own
    kvm_hv one_vm_per_core | a core runs vCPUs of one guest at a time
    kvm_hv target_smt_mode | threads a core that guests may use; 0: all
""")
