"""For make.py: the Linux guest of another architecture, from Debian's arm64 packages, on QEMU's "virt" machine.

Needs qemu-system-aarch64 (apt install qemu-system-arm) and Debian's keyring. This machine's own package lists do not change.
"""

import os
import re
import tempfile
from pathlib import Path

from kvmlab.guest import linux_image
from kvmlab.guest.linux import LinuxImage, Shape

KERNEL = "linux-image-cloud-arm64"
PARTS = {  # of which package, and what of it
    "busybox-static": r".*/bin/busybox",
    "util-linux": r".*/bin/lscpu",
    "libsmartcols1": r".*/libsmartcols\.so\..*",
    "libc6": r".*/(ld-linux-aarch64\.so\.1|libc\.so\.6)",
}
APT = """
APT::Architecture "arm64"; APT::Architectures {{ "arm64"; }};
Dir::State "{0}"; Dir::State::status "{0}/status"; Dir::State::lists "{0}/lists"; Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "{0}/sources.list"; Dir::Etc::sourceparts "{0}/none";
"""
SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n"


class ArmShape(Shape):
    """Its sockets hold clusters where x86_64 has dies, and its second serial port is a PCI device."""

    program = "qemu-system-aarch64"

    def command(self, image: LinuxImage) -> list[str]:
        told = {"dies=": "clusters=", "console=ttyS0": "console=ttyAMA0 output=ttyS0"}
        words = [re.sub("|".join(told), lambda found: told[found[0]], word) for word in super().command(image)]
        return [*words, "-machine", "virt,gic-version=3"]

    def ports(self, console: str, output: str) -> list[str]:
        return ["-serial", f"file:{console}", "-chardev", f"file,id=output,path={output}", "-device", "pci-serial,chardev=output,romfile="]


def build(folder: str | os.PathLike) -> LinuxImage:
    """As kvmlab.guest.linux.build, with lscpu from a package too."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["APT_CONFIG"] = _configuration(Path(scratch))  # all that apt-get and apt-cache need to know of it
        linux_image._say("apt-get", "update")
        name = re.search(r"Depends: (linux-image-\d\S+)", linux_image._say("apt-cache", "depends", KERNEL))[1]
        version, found = linux_image._from_package(name, r"\./boot/vmlinuz-.*", scratch)
        vmlinuz, made_of, files = next(iter(found.values())), {"kernel": version}, {"init": linux_image._INIT.encode()}
        for package, wanted in PARTS.items():
            made_of[package], found = linux_image._from_package(package, wanted, scratch)
            files |= {_place(path): data for path, data in found.items()}
        del os.environ["APT_CONFIG"]
    return linux_image._write(Path(folder), vmlinuz, files, made_of)


def _place(path: str) -> str:
    """The loader looks in lib/ too, for names with one number behind ".so"."""
    name = re.sub(r"(\.so\.\d+).*", r"\1", path.rpartition("/")[2])
    return f"lib/{name}" if ".so" in name else "bin/busybox" if name == "busybox" else f"usr/bin/{name}"


def _configuration(folder: Path) -> str:
    """The path of a configuration under which apt knows arm64 and nothing else."""
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(SOURCE)
    (folder / "apt.conf").write_text(APT.format(folder))
    return str(folder / "apt.conf")
