"""What `host.support()` says of machines that this one is not: their files are written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.host import kvmdev, support
from kvmlab.host.sysroot import SysRoot
from tests.host.paper import CPUS, FLAGS, Paper, Recorded, machine, table


@pytest.fixture(scope="module")
def here():
    return table(SysRoot())


INTEL = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme tsc msr vmx ept vpid\n\nprocessor\t: 1\n",
    "proc/sys/kernel/osrelease": "6.1.0-25-amd64\n",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on iommu=pt\n",
    "proc/misc": " 10 vfio\n232 kvm\n",
    "proc/modules": "kvm_intel 380928 4 - Live 0x0000000000000000\nkvm 1142784 3 kvm_intel, Live 0x0\n",
    "sys/firmware/acpi/tables/DMAR": "",
    "sys/firmware/acpi/tables/APIC": "",
    "sys/class/iommu/dmar0/x": "",
    "sys/class/iommu/dmar1/x": "",
    "sys/kernel/iommu_groups/0/type": "DMA\n",
    "sys/kernel/iommu_groups/17/type": "DMA\n",
    FLAGS.format("kvm", "halt_poll_ns"): "200000\n",
    FLAGS.format("kvm_intel", "ept"): "Y\n",
    FLAGS.format("kvm_intel", "nested"): "N\n",
    FLAGS.format("kvm_intel", "enable_apicv"): "1\n",
    "proc/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "proc/sys/kernel/sched_schedstats": "0\n",
    "proc/self/schedstat": "191710 0 1\n",
    "proc/sys/kernel/perf_event_paranoid": "-1\n",
    "sys/bus/event_source/devices/cpu/type": "4\n",
    "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "8\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/ksm/run": "1\n",
    "sys/kernel/mm/ksm/pages_sharing": "1234\n",
    "proc/sys/kernel/numa_balancing": "1\n",
    "sys/devices/system/node/node0/cpulist": "0\n",
    "sys/devices/system/node/node1/cpulist": "1\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    "sys/devices/system/clocksource/clocksource0/available_clocksource": "hpet acpi_pm\n",
    f"{CPUS}/cpufreq/policy0/scaling_governor": "performance\n",
    f"{CPUS}/cpufreq/policy1/scaling_governor": "powersave\n",
    f"{CPUS}/smt/active": "1\n",
    f"{CPUS}/smt/control": "on\n",
    f"{CPUS}/vulnerabilities/l1tf": "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable\n",
    f"{CPUS}/vulnerabilities/itlb_multihit": "KVM: Vulnerable\n",
    f"{CPUS}/vulnerabilities/mds": "Not affected\n",
    f"{CPUS}/vulnerabilities/srbds": "Unknown: Dependent on hypervisor status\n",
}


def test_an_intel_machine_with_vt_d_on(tmp_path):
    rows = table(machine(tmp_path, INTEL))
    expected = {
        "CPU virtualization": ("pass", "vmx: Intel VT-x"),
        "virtual machine": ("pass", "no"),
        "container": ("unknown", "not recorded"),
        "kernel": ("pass", "6.1.0-25-amd64; newer than 3.5 (VFIO came with 3.6)"),
        "KVM modules": ("pass", "kvm (loaded), kvm_intel (loaded)"),
        "two-level paging": ("pass", "EPT: on"),
        "interrupt virtualization": ("pass", "APICv: on"),
        "nested guests": ("warn", "kvm_intel: off"),
        "halt polling": ("pass", "an idle vCPU polls for up to 200 µs, in kernel time"),
        "IOMMU": ("pass", "VT-d: 2 groups, 2 units; intel_iommu=on iommu=pt"),
        "SMT": ("pass", "on (control: on)"),
        "CPU vulnerabilities": ("warn", "1 vulnerable, 1 mitigated, 1 unaffected, 1 unknown: itlb_multihit"),
        "cgroups": ("pass", "v2: cpu cpuset memory io pids hugetlb"),
        "schedstats": ("pass", "run delay of each thread; details: off"),
        "perf": ("pass", "perf_event_paranoid -1; hardware counters: cpu"),
        "huge pages": ("pass", "8 of 1 GiB; transparent: madvise"),
        "KSM": ("warn", "on: 1234 pages saved"),
        "NUMA balancing": ("warn", "on; nodes: 2"),
        "clock source": ("warn", "hpet; available: hpet acpi_pm"),
        "CPU frequency": ("warn", "governors: performance (1), powersave (1)"),
    }
    assert {check: rows[check][1:3] for check in expected} == expected
    assert {check for check in rows if check not in expected} == support.LIVE_CHECKS - {"virtual machine", "container"}
    assert "l1tf" in rows["CPU vulnerabilities"][4] and "itlb_multihit" in rows["CPU vulnerabilities"][4]


def cpuinfo(text):
    return {"proc/cpuinfo": text}


X86, VMX = (cpuinfo(f"flags : fpu tsc {more}") for more in ("", "vmx"))
GUEST = cpuinfo("flags : fpu tsc hypervisor")
ARM, S390 = cpuinfo("Features : fp asimd\nCPU implementer : 0x41"), "vendor_id : IBM/S390\n"
DMI = "sys/class/dmi/id/"


@pytest.mark.parametrize(
    ("files", "check", "status", "words"),
    [
        (cpuinfo("flags : fpu svm"), "CPU virtualization", "pass", "svm: AMD-V"),
        (X86, "CPU virtualization", "fail", "no vmx or svm flag"),
        (GUEST, "CPU virtualization", "fail", "no vmx or svm flag"),
        (GUEST | {"sys/module/kvm_pvm/parameters/stats": "N"}, "CPU virtualization", "warn", "kvm_pvm"),
        (cpuinfo("flags : half of a line"), "CPU virtualization", "unknown", "not recorded"),
        (ARM, "CPU virtualization", "unknown", "EL2"),
        (ARM | {"proc/misc": "232 kvm\n"}, "CPU virtualization", "pass", "EL2"),
        (cpuinfo(f"{S390}features : esan3 zarch sie\nfacilities : 0 1"), "CPU virtualization", "pass", "sie"),
        (cpuinfo(f"{S390}features : esan3 zarch\nfacilities : 0 1"), "CPU virtualization", "fail", "no sie"),
        (cpuinfo(f"{S390}features : esan3 zarch"), "CPU virtualization", "unknown", "may not write it"),
        (cpuinfo("cpu : POWER9, altivec supported\nplatform : PowerNV"), "CPU virtualization", "pass", "bare metal"),
        (cpuinfo("cpu : POWER7 (architected)\nplatform : pSeries"), "CPU virtualization", "warn", "pSeries"),
        (cpuinfo("isa : rv64imafdch_zicsr"), "CPU virtualization", "pass", "hypervisor extension"),
        (cpuinfo("isa : rv64imafdc_zicsr_zihpm"), "CPU virtualization", "fail", "no h"),
        (cpuinfo("isa : rv64imafdc"), "CPU virtualization", "unknown", "may not write it"),
        (cpuinfo("CPU Family : Loongson-64bit\nFeatures : cpucfg lam fpu lsx lvz"), "CPU virtualization", "pass", "lvz"),
        (cpuinfo("CPU Family : Loongson-64bit\nFeatures : cpucfg lam fpu"), "CPU virtualization", "fail", "no lvz"),
        (cpuinfo("cpu : TI UltraSparc II  (BlackBird)"), "CPU virtualization", "fail", "SPARC"),
        (GUEST, "virtual machine", "warn", "yes, under a hypervisor that gives no name"),
        (GUEST | {f"{DMI}sys_vendor": "QEMU\n"}, "virtual machine", "warn", "yes, under QEMU"),
        (GUEST | {f"{DMI}sys_vendor": "Amazon EC2"}, "virtual machine", "warn", "yes, under Amazon EC2's hypervisor"),
        (X86 | {f"{DMI}sys_vendor": "Amazon EC2", f"{DMI}product_name": "c5.metal"}, "virtual machine", "pass", "no"),
        (X86 | {f"{DMI}sys_vendor": "Microsoft Corporation", f"{DMI}product_name": "Surface"}, "virtual machine", "pass", "no"),
        (X86 | {"proc/bus/pci/devices": "0000\t80861237\t0\n0010\t80eebeef\t12\n"}, "virtual machine", "warn", "yes, under VirtualBox"),
        (
            X86 | {"sys/hypervisor/type": "xen", "proc/xen/capabilities": "control_d\n"},
            "virtual machine",
            "warn",
            "yes, under Xen, as its dom0",
        ),
        ({"proc/sysinfo": "Manufacturer: IBM\nVM00 Control Program: KVM/Linux\n"}, "virtual machine", "warn", "yes, under KVM/Linux"),
        ({"proc/sysinfo": "Manufacturer: IBM\nLPAR Number: 1\n"}, "virtual machine", "pass", "yes, under PR/SM, in a logical partition"),
        (ARM | {"proc/device-tree/compatible": "linux,dummy-virt\0"}, "virtual machine", "warn", "yes, under QEMU"),
        (ARM | {"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "virtual machine", "warn", "yes, under KVM"),
        (ARM, "virtual machine", "unknown", "not recorded"),
        ({"proc/version": "Linux version 3.6.0 (gcc)"}, "kernel", "pass", "3.6.0; newer"),
        ({"proc/version": "Linux version 3.5.7 (gcc)"}, "kernel", "warn", "3.5.7; not newer"),
        ({"proc/sys/kernel/osrelease": "2.6.32-754.el6.x86_64"}, "kernel", "warn", "not newer"),
        (VMX | {"proc/misc": "232 kvm\n", "sys/module/kvm/initstate": "live"}, "KVM modules", "pass", "kvm (loaded)"),
        (VMX | {"proc/misc": "10 vfio\n"}, "KVM modules", "fail", "no kvm"),
        (VMX | {"proc/misc": "10 vfio\n", "sys/module/kvm/initstate": "live"}, "KVM modules", "fail", "kvm (loaded); no kvm device"),
        (ARM | {"proc/misc": "10 vfio\n", "sys/module/kvm/parameters/x": ""}, "KVM modules", "fail", "kvm; no kvm device"),
        (ARM | {"sys/module/kvm/parameters/x": ""}, "KVM modules", "pass", "kvm"),
        (VMX | {"sys/module/kvm/initstate": "live"}, "KVM modules", "unknown", "not recorded"),
        (VMX, "KVM modules", "unknown", "not recorded"),
        (VMX | {"sys/firmware/acpi/tables/DMAR": ""}, "IOMMU", "warn", "VT-d in the firmware, but no groups"),
        (VMX | {"sys/firmware/acpi/tables/IVRS": ""}, "IOMMU", "warn", "AMD-Vi in the firmware, but no groups"),
        (VMX | {"sys/firmware/acpi/tables/APIC": ""}, "IOMMU", "warn", "none: no DMAR or IVRS table"),
        (VMX, "IOMMU", "unknown", "not recorded"),
        (ARM | {"sys/firmware/acpi/tables/IORT": ""}, "IOMMU", "unknown", "not recorded"),
        ({FLAGS.format("kvm_amd", "npt"): "0"}, "two-level paging", "warn", "NPT: off"),
        ({FLAGS.format("kvm_amd", "avic"): "N"}, "interrupt virtualization", "warn", "AVIC: off"),
        ({FLAGS.format("kvm", "nested"): "1"}, "nested guests", "pass", "kvm: on"),
        (ARM, "two-level paging", "unknown", "only x86"),
        ({FLAGS.format("kvm_pvm", "stats"): "N"}, "two-level paging", "unknown", "kvm_pvm has no such switch"),
        ({FLAGS.format("kvm", "halt_poll_ns"): "0"}, "halt polling", "pass", "off"),
        ({"proc/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"}, "cgroups", "unknown", "not recorded"),
        ({"proc/mounts": "a /sys/fs/cgroup/cpu cgroup rw,cpu 0 0"}, "cgroups", "warn", "v1: cpu"),
        ({"sys/fs/cgroup/cgroup.controllers": "memory pids"}, "cgroups", "warn", "v2: memory pids"),
        ({"proc/sys/kernel/perf_event_paranoid": "2"}, "perf", "unknown", "perf_event_paranoid 2"),
        ({"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"}, "huge pages", "warn", "none reserved"),
        ({"sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages": "3"}, "huge pages", "pass", "3 of 64 KiB"),
        ({"sys/kernel/mm/ksm/run": "0"}, "KSM", "pass", "off"),
        ({"proc/sys/kernel/numa_balancing": "1", "sys/devices/system/node/node0/x": ""}, "NUMA balancing", "pass", "on; nodes: 1"),
        ({"sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc"}, "clock source", "pass", "tsc"),
        ({f"{CPUS}/cpu3/cpufreq/scaling_governor": "performance"}, "CPU frequency", "pass", "performance (1)"),
        ({f"{CPUS}/vulnerabilities/itlb_multihit": "Processor vulnerable"}, "CPU vulnerabilities", "warn", "1 vulnerable: itlb_multihit"),
        ({f"{CPUS}/vulnerabilities/mds": "Mitigation: Clear CPU buffers; SMT disabled"}, "CPU vulnerabilities", "pass", "1 mitigated"),
        ({f"{CPUS}/smt/active": "0", f"{CPUS}/smt/control": "notsupported"}, "SMT", "pass", "off (control: notsupported)"),
        ({"run/systemd/container": "lxc\n"}, "container", "pass", "yes: lxc"),
    ],
)
def test_a_recorded_machine_says(tmp_path, files, check, status, words):
    row = table(machine(tmp_path, files))[check]
    assert row[1] == status and words in row[2], row


def test_a_mount_point_of_a_recording_leads_nowhere_else(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset")
    root = machine(tmp_path / "recorded", {"proc/mounts": "cgroup2 /proc/../.. cgroup2 rw 0 0"})
    assert table(root)["cgroups"][1] == "unknown"


def test_an_empty_recording_has_every_row_and_passes_none(tmp_path, here):
    rows = table(Recorded(tmp_path))
    assert list(rows) == list(here)
    assert {row[1] for row in rows.values()} == {"unknown"}
    assert all(row[2].startswith("not recorded") for row in rows.values())


def test_nothing_is_opened_or_measured_for_a_recording(tmp_path, monkeypatch):
    def never():
        raise AssertionError("a recording is not this machine")

    for module, name in ((kvmdev, "ask"), (kvmdev, "probe"), (kvmdev, "native")):
        monkeypatch.setattr(module, name, lambda *_: never())
    rows = table(machine(tmp_path, INTEL | {"proc/cpuinfo": "flags : fpu hypervisor vmx"}))
    assert {rows[check][1] for check in ("/dev/kvm", "KVM API", "KVM capabilities", "vCPUs of a guest", "guest speed")} == {"unknown"}


def test_a_recording_keeps_what_only_its_machine_could_tell(tmp_path):
    root = Recorded(tmp_path)
    speed = ["guest speed", "warn", "user code 50 %", "a loop", None]
    root.manifest = {"checks": [speed, ["KSM", "pass", "off", "forged", None], ["KVM API", "great", "12", "x", None], [1], None, [{}] * 5]}
    rows = table(root)
    assert rows["guest speed"] == tuple(speed)
    assert rows["KSM"][1] == rows["KVM API"][1] == "unknown"


@pytest.mark.parametrize("checks", [None, 3, "text", {"guest speed": 1}])
def test_a_manifest_without_sense_is_as_none(tmp_path, checks):
    root = Recorded(tmp_path)
    root.manifest = {"checks": checks}
    assert {row[1] for row in support.rows(root)} == {"unknown"}


def test_no_file_can_write_to_the_terminal(tmp_path):
    files = {f"{CPUS}/cpufreq/policy0/scaling_governor": "\x1b]0;owned\x07" + "x" * 500, f"{CPUS}/vulnerabilities/\x1b[2J": "Vulnerable"}
    for row in support.rows(machine(tmp_path, files)):
        assert all(text is None or text.isprintable() for text in row)
        assert len(row[2]) <= support.WIDTH


PLAUSIBLE = [
    text.encode() for text in (*INTEL.values(), *(c["proc/cpuinfo"] for c in (X86, GUEST, ARM)), "isa : rv", "9" * 5000, "-1", ":", "[")
]


@given(
    st.dictionaries(
        st.sampled_from([*INTEL, "proc/sysinfo", "proc/version", f"{DMI}sys_vendor", "proc/bus/pci/devices"]),
        st.binary(max_size=80) | st.sampled_from(PLAUSIBLE),
    )
)
def test_whatever_the_files_hold_each_row_is_there_and_legal(files):
    rows = support.rows(Paper(files))
    assert len(rows) == len(support.CHECKS)
    for _check, status, found, _source, advice in rows:
        assert status in support.STATUSES
        assert 0 < len(found) <= support.WIDTH and found.isprintable()
        assert advice is None or advice.isprintable()


@given(st.lists(st.sampled_from(["vmx", "svm", "tsc", "hypervisor", "sie", "lvz", "fpu_exception"]) | st.text(max_size=5)))
def test_a_torn_line_of_flags_lets_no_processor_pass_or_fail(words):
    text = " ".join(word for word in words if not set(word.split()) & {"fpu"} and word.isprintable())  # the first of all x86 flags
    assert table(Paper({"proc/cpuinfo": f"flags : {text}".encode()}))["CPU virtualization"][1] == "unknown"
