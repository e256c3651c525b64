"""The frames of a host beside lscpu, in one run: `./lab run python bench/host.py [RECORDING]`. It prints ratios; no test asserts them.

The recording defaults to the largest of the project's own; lscpu reads the same files, unpacked. Both sides read and parse; a
process is not started on ours, and lscpu's start is printed so that it can be taken off.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from bench import command, report, seconds
from kvmlab import Host

LARGEST = Path(__file__).parent.parent / "tests/hosts/x86_64-4n4s16c2t.tar.xz"


def recorded(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as tar:
        tar.extractall(folder)  # a recording of one's own choice, not a stranger's
        root = min((found.parent for found in Path(folder).rglob("sys") if found.is_dir()), key=lambda found: len(found.parts))
        lscpu = ["lscpu", "--sysroot", str(root)]
        host = Host.open(path)
        cpus, caches = (seconds(command(*lscpu, word), 15) for word in ("-p", "-C"))
        print(f"{path.name}: {len(host.cpus())} CPUs; lscpu --version takes {1e3 * seconds(command('lscpu', '--version'), 15):.1f} ms")
        report("Host.open(...).cpus()", seconds(lambda: Host.open(path).cpus(), 15), "lscpu --sysroot", cpus, "at most 1")
        report("host.cpus(), opened before", seconds(host.cpus, 15), "lscpu --sysroot", cpus, "at most 1")
        report("host.caches(), opened before", seconds(host.caches, 15), "lscpu --sysroot -C", caches, "at most 1")


def live() -> None:
    host = Host()
    report("host.cpus()", seconds(host.cpus, 15), "lscpu -e", seconds(command("lscpu", "-e"), 15), "at most 1")
    report("host.caches()", seconds(host.caches, 15), "lscpu -C", seconds(command("lscpu", "-C"), 15), "at most 1")
    report("host.support(), its probe included", seconds(host.support, 9), "150 ms", 0.15, "under 1")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "me.tar.xz")
        host.record(path)
        report("host.record(...)", seconds(lambda: host.record(path), 3), "tar cJ of the same files", _tar(path, folder), "none")


def _tar(path: str, folder: str) -> float:
    with tarfile.open(path) as tar:
        tar.extractall(os.path.join(folder, "files"))
    return seconds(command("tar", "cJf", os.path.join(folder, "again.tar.xz"), "-C", os.path.join(folder, "files"), "."), 3)


if __name__ == "__main__":
    recorded(Path(sys.argv[1]) if len(sys.argv) > 1 else LARGEST)
    live()
