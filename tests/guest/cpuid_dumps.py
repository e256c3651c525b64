"""CPUID as text, in the raw form of the program cpuid(1): what `cpuid -r` writes and `cpuid -f` reads.

The recordings in cpuid/ were made by `python -m tests.guest.cpuid_dumps`: lab guests under TCG, MODEL-SHAPE.txt, and beside each what Linux
said in a guest that QEMU gave the same CPU. Of all vCPUs but the first, only the leaves that differ from the first one's are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).with_name("cpuid")
RECORDED = (
    *("Westmere-2x1x2x2", "Skylake-Client-1x2x2x2", "EPYC-2x1x2x2", "EPYC-Rome-2x1x3x2", "Opteron_G3-2x1x2x2"),
    *("max-1x1x1x2", "kvm64-1x1x3x2", "qemu64-1x1x3x1"),
)
WITHOUT_LINUX = "qemu32-1x1x2x2"  # has no long mode
_LINE = re.compile(r" +0x(\w+) 0x(\w+): eax=0x(\w+) ebx=0x(\w+) ecx=0x(\w+) edx=0x(\w+)")
_SCRIPT = r"""
grep -m1 ^flags /proc/cpuinfo
cd /sys/devices/system/cpu
for cpu in $(ls -d cpu[0-9]* | sort -V); do
    echo $(cat $cpu/topology/physical_package_id $cpu/topology/thread_siblings_list $cpu/cache/index[0-3]/shared_cpu_list)
done
"""


def text(per_vcpu: Mapping[int, dict]) -> str:
    lines = []
    for vcpu, leaves in per_vcpu.items():
        lines.append(f"CPU {vcpu}:")
        for (leaf, subleaf), (eax, ebx, ecx, edx) in leaves.items():
            lines.append(f"   0x{leaf:08x} 0x{subleaf:02x}: eax=0x{eax:08x} ebx=0x{ebx:08x} ecx=0x{ecx:08x} edx=0x{edx:08x}")
    return "\n".join(lines) + "\n"


def parse(dump: str) -> dict[int, dict]:
    """The leaves of each CPU; what a CPU leaves out is as on the first one."""
    per_vcpu: dict[int, dict] = {}
    for line in dump.splitlines():
        if line.startswith("CPU "):
            leaves = per_vcpu[int(line[4:-1])] = dict(per_vcpu.get(0, {}))
        elif match := _LINE.fullmatch(line):
            leaf, subleaf, *answer = (int(number, 16) for number in match.groups())
            leaves[leaf, subleaf] = tuple(answer)
    return per_vcpu


def load(name: str) -> dict[int, dict]:
    return parse((FOLDER / f"{name}.txt").read_text())


def _shorter(per_vcpu: Mapping[int, dict]) -> dict[int, dict]:
    first = per_vcpu[0]
    return {v: {key: answer for key, answer in leaves.items() if v == 0 or answer != first[key]} for v, leaves in per_vcpu.items()}


def make() -> None:
    from kvmlab import Lab
    from kvmlab.guest import linux

    with Lab(accel="tcg") as lab:
        for name in (*RECORDED, WITHOUT_LINUX):
            model, _, shape = name.rpartition("-")
            cpu = {"max": "maximum"}.get(model, model)  # libvirt's word for it
            guest = lab.start(f"hc-record-{name.lower()}", cpu=cpu, topology=shape)
            dump = {vcpu: guest.cpuid_all(vcpu) for vcpu in range(guest.vcpus)}
            (FOLDER / f"{name}.txt").write_text(text(_shorter(dump)))
            guest.destroy()
            if name != WITHOUT_LINUX:
                said = linux.boot(linux.find(), linux.Shape(*map(int, shape.split("x")), cpu=model), _SCRIPT, 100)
                (FOLDER / f"{name}.linux.txt").write_bytes(said)


if __name__ == "__main__":
    make()
