"""Make the recorded hosts of this folder: boot a Linux guest of each shape and keep its /proc and /sys, with lscpu's answer beside it.

``python tests/hosts/make.py RAW FINAL [NAME...]``: RAW gets what the guests sent; FINAL the recordings that `Host.record` makes of it.
"""

import shutil
import sys
import time
from pathlib import Path

import aarch64

from kvmlab import Host
from kvmlab.guest.linux import Shape, boot_and_record, build, offline

DISK = ("-drive", "if=none,id=disk,driver=null-co,size=1M", "-device", "nvme,drive=disk,serial=1")  # a queue and an interrupt a CPU
LOAD_KVM = "for name in irqbypass kvm kvm-amd; do insmod /modules/$name.ko*; done\n"
KSM = "echo 1 > /sys/kernel/mm/ksm/run\n"
# A partition of CPUs 4 and 5 with two threads of its own, CPUs 2 and 3 for a cgroup that shares them, and a busy thread pinned to CPU 1.
CGROUPS = """
cd /sys/fs/cgroup
echo +cpuset > cgroup.subtree_control
mkdir isolated vms
echo 4-5 > isolated/cpuset.cpus
echo isolated > isolated/cpuset.cpus.partition
echo 2-3 > vms/cpuset.cpus
for group in isolated isolated vms; do sh -c "echo \\$\\$ > $group/cgroup.procs; exec sleep 1000" & done
taskset 2 yes > /dev/null &
sleep 1
"""

SHAPES = {
    "x86_64-1s1c1t": Shape(cpu="qemu64"),
    "x86_64-2s2c1t": Shape(sockets=2, cores=2, cpu="Nehalem"),
    "x86_64-2s2d2c2t": Shape(sockets=2, dies=2, cores=2, threads=2, cpu="Cascadelake-Server"),
    "x86_64-8s2c1t": Shape(sockets=8, cores=2, cpu="Opteron_G3"),
    "x86_64-1s4c2t-isolated": Shape(cores=4, threads=2, kernel="isolcpus=managed_irq,domain,2-5 nohz_full=2-5 rcu_nocbs=2-5", qemu=DISK),
    "x86_64-1s8c1t-cgroups": Shape(cores=8, cpu="Haswell", qemu=DISK, setup=CGROUPS),
    "x86_64-2n1s4c2t": Shape(cores=4, threads=2, nodes=(("0-3", 512), ("4-7", 512))),
    "x86_64-2n2s4c2t-offline": Shape(sockets=2, cores=4, threads=2, nodes=(("0-7", 512), ("8-15", 512)), setup=offline(3, 8, 9, 14)),
    "x86_64-2n2s2c2t-memoryless": Shape(sockets=2, cores=2, threads=2, nodes=(("0-3", 1024), ("4-7", 0))),
    "x86_64-3n2s2c1t-cpuless": Shape(
        sockets=2, cores=2, nodes=(("0-1", 512), ("2-3", 512), ("", 512)), distances=((10, 21, 17), (21, 10, 28), (17, 28, 10))
    ),
    "x86_64-4n4s2c1t-distances": Shape(
        sockets=4,
        cores=2,
        nodes=(("0-1", 256), ("2-3", 256), ("4-5", 256), ("6-7", 256)),
        distances=((10, 12, 20, 22), (12, 10, 24, 26), (20, 24, 10, 14), (22, 26, 14, 10)),
    ),
    "x86_64-2s4c1t-hotplug": Shape(sockets=2, cores=4, cpus=3),
    "x86_64-2n2s2c1t-hugepages": Shape(
        sockets=2, cores=2, nodes=(("0-1", 512), ("2-3", 512)), kernel="hugepages=0:32,1:96 transparent_hugepage=never"
    ),
    "x86_64-1s4c1t-kvm": Shape(cores=4, cpu="EPYC-Rome", setup=LOAD_KVM + KSM),
    "x86_64-2s2c1t-iommu": Shape(
        sockets=2, cores=2, kernel="intel_iommu=on", qemu=("-machine", "q35,kernel-irqchip=split", "-device", "intel-iommu", *DISK)
    ),
    "x86_64-2n2s8c2t": Shape(sockets=2, cores=8, threads=2, nodes=(("0-15", 512), ("16-31", 512))),
    "x86_64-4n4s16c2t": Shape(sockets=4, cores=16, threads=2, nodes=(("0-31", 512), ("32-63", 512), ("64-95", 512), ("96-127", 512))),
    "aarch64-2n2s2cl2c2t": aarch64.ArmShape(sockets=2, dies=2, cores=2, threads=2, cpu="neoverse-n1", nodes=(("0-7", 512), ("8-15", 512))),
    "aarch64-1s2cl4c1t-offline": aarch64.ArmShape(dies=2, cores=4, cpu="max", setup=offline(0, 5)),
}


def main(raw: str, final: str, *names: str) -> None:
    Path(final).mkdir(parents=True, exist_ok=True)
    images = {}
    for name in names or SHAPES:
        begin, shape = time.monotonic(), SHAPES[name]
        if not shutil.which(shape.program):
            print(f"{name}: left out, there is no {shape.program}")
            continue
        if shape.program not in images:
            images[shape.program] = aarch64.build(Path(raw, "aarch64")) if isinstance(shape, aarch64.ArmShape) else build()
        archive = boot_and_record(images[shape.program], shape, Path(raw, name))
        Host.open(archive).record(Path(final, f"{name}.tar.xz"))
        shutil.copy(Path(raw, f"{name}.lscpu.txt"), final)
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
