"""The Linux guest, booted in any topology that QEMU can be told: for a prompt, and to make recorded hosts (tests/hosts/make.py).

It runs under TCG and without libvirt. Sources: qemu-system-x86_64(1), -smp and -numa; Documentation/admin-guide/kernel-parameters.txt.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from kvmlab.errors import GuestError
from kvmlab.guest.linux_image import LinuxImage, build, default_folder, find, newc

__all__ = ["LinuxImage", "Shape", "boot", "boot_and_record", "build", "default_folder", "find", "find_or_build", "offline"]

# One `cp` for all, not a process for each of thousands of files. It reads to the end, whatever size sysfs claims.
_RECORD = r"""
cd / && mkdir /tmp/record
{ lscpu -p=CPU,NODE,SOCKET,CORE,CACHE; lscpu -C -J; }
printf '\0'
cp -L --parents proc/cpuinfo proc/stat proc/cmdline proc/version proc/meminfo proc/modules proc/mounts proc/cgroups proc/schedstat \
    proc/interrupts proc/softirqs proc/uptime proc/loadavg proc/misc proc/bus/pci/devices \
    proc/sys/kernel/osrelease proc/sys/kernel/perf_event_paranoid proc/sys/kernel/sched_* proc/sys/kernel/numa_balancing* \
    proc/sys/kernel/timer_migration proc/sys/kernel/*watchdog* \
    proc/irq/default_smp_affinity proc/irq/*/smp_affinity_list proc/irq/*/effective_affinity_list \
    proc/[0-9]*/status proc/[0-9]*/cmdline proc/[0-9]*/cgroup proc/[0-9]*/task/[0-9]*/stat proc/[0-9]*/task/[0-9]*/status \
    proc/[0-9]*/task/[0-9]*/schedstat sys/class/dmi/id/sys_vendor sys/class/dmi/id/product_name /tmp/record
cp -dR --parents sys/devices/system/cpu sys/devices/system/node sys/devices/system/clocksource sys/devices/virtual/workqueue \
    sys/module/*/parameters sys/module/*/initstate sys/module/*/refcnt sys/kernel/mm sys/kernel/iommu_groups sys/class/iommu \
    sys/firmware/acpi/tables sys/bus/event_source/devices sys/hypervisor sys/fs/cgroup /tmp/record
find /tmp/record -type d -name power -prune -exec rm -r {} +  # holds files that cannot be read, copied as empty ones
tar c -C /tmp/record proc sys | gzip -1
"""


@dataclass(frozen=True)
class Shape:
    """The machine that a Linux guest sees.

    Parameters
    ----------
    sockets, dies, cores, threads
        Sockets in all, dies a socket, cores a die, threads a core.
    cpus
        How many CPUs it boots with; the rest of the topology can be plugged in later. All, when not given.
    nodes
        A NUMA node each: its CPUs ("0-3,8"; "" for none) and its memory in MiB (0 for none).
    distances
        A row a node.
    cpu
        QEMU's CPU model. TCG has SMT threads with Intel's models only (AMD's need topoext, which it lacks).
    memory_mib
        Where there are no nodes.
    kernel
        What to add to the kernel's command line.
    qemu
        Further arguments of QEMU.
    setup
        Lines of shell that the guest runs first.
    """

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1
    cpus: int | None = None
    nodes: tuple[tuple[str, int], ...] = ()
    distances: tuple[tuple[int, ...], ...] = ()
    cpu: str = "Skylake-Server"
    memory_mib: int = 1024
    kernel: str = ""
    qemu: tuple[str, ...] = ()
    setup: str = ""
    program: ClassVar[str] = "qemu-system-x86_64"

    def command(self, image: LinuxImage) -> list[str]:
        """What boots it, to a prompt with ``-serial stdio`` added. Pure.

        One thread runs all vCPUs in turn. With threads of their own, more vCPUs than host CPUs wait for each other's locks:
        128 on a busy host of two took 80 s to boot in turn, and over 600 s otherwise.
        """
        most = self.sockets * self.dies * self.cores * self.threads
        smp = f"{self.cpus or most},maxcpus={most},sockets={self.sockets},dies={self.dies},cores={self.cores},threads={self.threads}"
        memory = sum(mib for _, mib in self.nodes) or self.memory_mib
        return [
            *(self.program, "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg,thread=single"),
            *("-cpu", self.cpu, "-smp", smp, "-m", f"{memory}M", *self._numa(), *self.qemu),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", f"console=ttyS0 quiet panic=-1 {self.kernel}".strip()),
        ]

    def ports(self, console: str, output: str) -> list[str]:
        """The serial ports: what the kernel says goes to one file, what the script writes to the other."""
        return ["-serial", f"file:{console}", "-serial", f"file:{output}"]

    def _numa(self) -> list[str]:
        words = []
        for node, (cpus, mib) in enumerate(self.nodes):
            memory = f",memdev=ram{node}" if mib else ""
            words += ["-object", f"memory-backend-ram,id=ram{node},size={mib}M"] if mib else []
            words += ["-numa", f"node,nodeid={node}{memory}" + "".join(f",cpus={part}" for part in cpus.split(",") if part)]
        for here, row in enumerate(self.distances):
            words += [word for there, far in enumerate(row) for word in ("-numa", f"dist,src={here},dst={there},val={far}")]
        return words


def offline(*cpus: int) -> str:
    """Lines of shell for Shape.setup that take CPUs away."""
    return "".join(f"echo 0 > /sys/devices/system/cpu/cpu{cpu}/online\n" for cpu in cpus)


def find_or_build() -> LinuxImage:
    """The image that was built before, or else one that is built now: some 30 MB are fetched, once.

    Raises
    ------
    GuestError
        Where there is none and none can be built, with what to type.
    """
    try:
        return find()
    except GuestError:
        return build()


def boot(image: LinuxImage, shape: Shape, script: str, seconds: float = 600) -> bytes:
    """Boot the guest, run a shell script in it, power it off, and return what the script wrote to its standard output.

    Raises
    ------
    GuestError
        Where QEMU is missing, or the script did not come to its end in time, with what QEMU and the console said last.
    """
    with _in_memory("initramfs") as initramfs, _in_memory("console") as console, _in_memory("output") as output:
        initramfs.write(image.initramfs.read_bytes())  # the kernel unpacks one archive after the other
        initramfs.write(gzip.compress(newc({"script": f"{shape.setup}\n{script}".encode()})))
        initramfs.flush()
        places = [f"/dev/fd/{file.fileno()}" for file in (initramfs, console, output)]
        command = shape.command(LinuxImage(image.kernel, Path(places[0]), image.made_of))
        problem = _run([*command, *shape.ports(*places[1:])], seconds, initramfs, console, output)
        said = console.read().decode(errors="replace").strip()
        if problem or "script ended: 0" not in said:
            last = " | ".join(said.splitlines()[-5:]) or "nothing"
            raise GuestError(f"The Linux guest did not finish its script{problem}. Its console said last: {last}")
        return output.read()


def _in_memory(name: str) -> BinaryIO:
    """A file that goes with its last user, however that ends."""
    return open(os.memfd_create(name), "w+b")


def _run(command: list[str], seconds: float, *files: BinaryIO) -> str:
    """Run QEMU to its end, or put an end to it; setpriv(1) does where we are killed. Returns what went wrong."""
    if shutil.which(command[0]) is None:
        raise GuestError(f"{command[0]} is not here: apt install qemu-system-x86")
    with tempfile.TemporaryFile() as errors:
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        streams = {"stdin": subprocess.DEVNULL, "stdout": errors, "stderr": errors}
        qemu = subprocess.Popen(command, pass_fds=[file.fileno() for file in files], **streams)
        try:
            if qemu.wait(seconds) == 0:
                return ""
        except subprocess.TimeoutExpired:
            return f" within {seconds:g} s"
        finally:
            qemu.kill()
            qemu.wait()
        errors.seek(0)
        return f": QEMU said {errors.read()[-500:].decode(errors='replace').strip()}"


def boot_and_record(image: LinuxImage, shape: Shape, out: str | os.PathLike, seconds: float = 600) -> Path:
    """Boot a machine of that shape and keep what Host.open() needs of it, with what lscpu says inside beside it.

    Returns
    -------
    Path
        ``<out>.tar.gz``, which holds proc/ and sys/ as the guest saw them; ``<out>.lscpu.txt`` lies beside it.
    """
    said, _, archive = boot(image, shape, _RECORD, seconds).partition(b"\0")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.getmembers()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise GuestError(f"The Linux guest sent a broken recording of {len(archive)} bytes: try again.") from error
    raw = Path(f"{out}.tar.gz")
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(archive)
    Path(f"{out}.lscpu.txt").write_bytes(said)
    return raw
