"""The Linux guest's image: a distribution's kernel and a busybox initramfs, put together without root and without installing anything.

Sources: apt-get(8), dpkg-deb(1), Documentation/driver-api/early-userspace/buffer-format.rst (the newc archive).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kvmlab.errors import GuestError

_KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual")  # Debian's and Ubuntu's package for virtual machines
_MODULES = ("irqbypass", "kvm", "kvm-amd")  # for a guest that runs guests: TCG emulates AMD's SVM, but no VMX
_PROGRAMS = ("lscpu", "ps")  # of this machine, where it has them: busybox has no lscpu and a poorer ps
_LIST = "image.json"
_OWN = "or give your own: build(kernel='/boot/vmlinuz-...', busybox='/bin/busybox')"

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
export PATH=/usr/bin:/bin HOME=/tmp
if [ -e /script ]; then
    port=/dev/${output:-ttyS1}  # the kernel hands over what it does not know of its command line
    stty -F $port raw
    sh /script > $port
    echo "script ended: $?"
else
    echo "A Linux guest of kvmlab: /bin has busybox; 'exit' or Ctrl-D powers it off."
    [ -x /usr/bin/ps ] && echo "alias ps=/usr/bin/ps" > /tmp/aliases
    ENV=/tmp/aliases setsid cttyhack sh
fi
poweroff -f
"""


@dataclass(frozen=True)
class LinuxImage:
    """A kernel and an initramfs, and from which packages or files they were made."""

    kernel: Path
    initramfs: Path
    made_of: dict[str, str]


def default_folder() -> Path:
    """Where the image lies unless told otherwise: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvmlab" / "linux-guest"


def find(folder: str | os.PathLike | None = None) -> LinuxImage:
    """The image that was built before.

    Raises
    ------
    GuestError
        Where there is none.
    """
    folder = Path(folder or default_folder())
    try:
        made_of = json.loads((folder / _LIST).read_text())
    except (OSError, ValueError) as error:
        raise GuestError(f"There is no Linux guest in {folder}. Build it once: kvmlab build-linux-guest") from error
    return LinuxImage(folder / "vmlinuz", folder / "initramfs.gz", made_of)


def build(folder: str | os.PathLike | None = None, kernel: str | None = None, busybox: str | None = None) -> LinuxImage:
    """Make the image, from packages of this distribution (about 30 MB, needs no root, installs nothing) or from files of yours.

    Parameters
    ----------
    folder
        Where to put it; the user's cache when not given.
    kernel, busybox
        Paths of a vmlinuz and of a busybox to use instead of the distribution's packages.

    Raises
    ------
    GuestError
        Where there are no such packages or files, with what to type.
    """
    folder = Path(folder or default_folder())
    made_of, files = {}, {"init": _INIT.encode()} | dict(_programs(_PROGRAMS))
    with tempfile.TemporaryDirectory(prefix="kvmlab-") as scratch:
        if kernel is None:
            wanted = rf"\./boot/vmlinuz-.*|.*/({'|'.join(_MODULES)})\.ko(\.\w+)?"
            made_of["kernel"], found = _from_package(_kernel_package(), wanted, scratch)
            files |= {f"modules/{path.rpartition('/')[2]}": data for path, data in found.items() if "/modules/" in path}
            vmlinuz = next(data for path, data in found.items() if "/vmlinuz-" in path)
        else:
            made_of["kernel"], vmlinuz = kernel, _own(kernel)
        if busybox is None:
            made_of["busybox"], found = _from_package("busybox-static", r"\./(usr/)?bin/busybox", scratch)
            files["bin/busybox"] = next(iter(found.values()))
        else:
            made_of["busybox"] = busybox
            files |= {"bin/busybox": _own(busybox)} | dict(_libraries(busybox))
    return _write(folder, vmlinuz, files, made_of)


def _write(folder: Path, vmlinuz: bytes, files: dict[str, bytes], made_of: dict[str, str]) -> LinuxImage:
    """The list of what it is made of comes last: where it lies, the image is whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LIST).unlink(missing_ok=True)
        (folder / "vmlinuz").write_bytes(vmlinuz)
        (folder / "initramfs.gz").write_bytes(gzip.compress(newc(files, ("dev", "proc", "sys", "tmp")), mtime=0))
        (folder / _LIST).write_text(json.dumps(made_of, indent=2) + "\n")
    except OSError as error:
        raise GuestError(f"The Linux guest cannot be written to {folder}: {error.strerror}. Give another folder.") from error
    return find(folder)


def _own(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise GuestError(f"{path} cannot be read: {error.strerror}.") from error


# ---- the parts: packages of this distribution, programs of this machine


def _kernel_package() -> str:
    """The concrete package behind the name that always means the newest kernel."""
    for name in _KERNELS:
        found = re.search(r"Depends: (linux-image-\d\S+)", _say("apt-cache", "depends", name, fails=False))
        if found:
            return found[1]
    raise GuestError(f"apt-cache knows neither {' nor '.join(_KERNELS)}: sudo apt-get update, and try again, {_OWN}")


def _from_package(name: str, wanted: str, scratch: str) -> tuple[str, dict[str, bytes]]:
    """("name version", {path: content} of the files in it whose paths match `wanted`)."""
    _say("apt-get", "download", name, cwd=scratch)
    package = str(next(Path(scratch).glob(f"{name}_*.deb")))
    version = _say("dpkg-deb", "--field", package, "Version").strip()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpack:
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar if m.isfile() and re.fullmatch(wanted, m.name)}
        unpack.stdout.read()  # the padding behind the archive's end
    if not found:
        raise GuestError(f"Package {name} {version} holds nothing like {wanted}: {_OWN}")
    return f"{name} {version}", found


def _say(program: str, *words: str, cwd: str | None = None, fails: bool = True) -> str:
    try:
        run = subprocess.run(
            [program, *words], cwd=cwd, capture_output=True, text=True, timeout=600, env=os.environ | {"LC_ALL": "C"}, check=False
        )
    except FileNotFoundError as error:
        raise GuestError(f"{program} is not here; packages of Debian or Ubuntu need it. Use such a machine, {_OWN}") from error
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"{program} {' '.join(words)} took more than 10 minutes: is the network there? Try again, {_OWN}") from error
    if run.returncode and fails:
        said = " ".join(line for line in run.stderr.splitlines() if line.startswith("E:")) or run.stderr.strip()[-300:]
        raise GuestError(f"{program} {' '.join(words)} failed: {said} - sudo apt-get update, and try again, {_OWN}")
    return run.stdout


def _programs(names: Iterable[str]) -> Iterable[tuple[str, bytes]]:
    for path in filter(None, map(shutil.which, names)):
        yield f"usr/bin/{Path(path).name}", Path(path).read_bytes()
        yield from _libraries(path)


def _libraries(program: str) -> Iterable[tuple[str, bytes]]:
    """The shared libraries and the loader that a program needs; none for a static one."""
    run = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    for path in re.findall(r"(/\S+) \(0x", run.stdout):
        yield path.lstrip("/"), Path(path).read_bytes()


def newc(files: dict[str, bytes], folders: Iterable[str] = ()) -> bytes:
    """A cpio archive in the "newc" format, as the kernel unpacks it: every folder comes before what is in it."""
    above = {str(folder) for name in files for folder in Path(name).parents if str(folder) != "."}
    members = [(name, 0o040755, b"") for name in sorted(above | set(folders))]
    members += [(name, 0o100755, data) for name, data in files.items()]
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*members, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)  # uid, gid, links, mtime; devices; checksum
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + path, data):
            out += part
            out += bytes(-len(out) % 4)
    return bytes(out)
