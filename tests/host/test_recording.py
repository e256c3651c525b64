import bz2
import gzip
import io
import lzma
import os
import random
import resource
import tarfile
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, KvmlabError
from kvmlab.errors import RecordingError
from kvmlab.host import archive
from tests.conftest import REPOSITORY

FRAMES = ("support", "flags", "kvm", "cpus", "caches", "nodes", "distances", "threads", "threads_per_cpu", "cpu_times", "isolation")
SMALL = {
    "sys/devices/system/cpu/online": b"0-1\n",
    "sys/devices/system/cpu/cpu0/topology/core_id": b"0\n",
    "sys/devices/system/cpu/cpu1/topology/core_id": b"1\n",
}


@cache  # a thousand recordings have much the same files
def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def packed(files: dict[str, bytes], *extra: bytes) -> bytes:
    """A tar of these files, and of `extra` headers."""
    blocks = [header(name, size=len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0") for name, data in files.items()]
    return b"".join([*blocks, *extra, bytes(1024)])


def opened(tmp_path, data: bytes, name: str = "host.tar") -> Host:
    path = tmp_path / name
    path.write_bytes(data)
    return Host.open(path)


@pytest.mark.parametrize("pack, ending", [(bytes, "tar"), (gzip.compress, "tar.gz"), (bz2.compress, "tar.bz2"), (lzma.compress, "tar.xz")])
@pytest.mark.parametrize("top", ["", "./", "a-host/", "a/b/c/"])
def test_a_recording_may_be_packed_in_any_way_and_lie_at_any_depth(tmp_path, pack, ending, top):
    host = opened(tmp_path, pack(packed({top + name: data for name, data in SMALL.items()})), f"host.{ending}")
    assert host.cpus()["core"].tolist() == [0, 1]
    assert host.cpus().attrs["host"] == f"host.{ending}" and "2 CPUs online" in repr(host)


def test_a_folder_is_a_recording_too(tmp_path):
    for name, data in SMALL.items():
        path = tmp_path / "some/where" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.symlink("../cpu0", tmp_path / "some/where/sys/devices/system/cpu/cpu1/same")
    assert Host.open(tmp_path).cpus()["core"].tolist() == [0, 1]


def test_pythons_own_tar_files_of_every_format_are_read(tmp_path):
    name = "sys/devices/system/cpu/cpu0/" + "long/" * 40 + "name"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for file, data in {**SMALL, **({} if form == tarfile.USTAR_FORMAT else {name: b"deep"})}.items():
                info = tarfile.TarInfo(file)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("sys/devices/system/cpu/cpu1/again")
            link.type, link.linkname = tarfile.LNKTYPE, "sys/devices/system/cpu/online"
            tar.addfile(link)
        root = Host.open(path).root
        assert root.read("sys/devices/system/cpu/cpu1/again") == "0-1"
        assert root.read(name) == (None if form == tarfile.USTAR_FORMAT else "deep")


def test_links_inside_of_a_recording_are_followed(tmp_path):
    extra = [
        header("h/sys/devices/system/node/node0/cpu1", tarfile.SYMTYPE, link="../../cpu/cpu1"),
        header("h/sys/class/up", tarfile.SYMTYPE, link="/sys/devices/system"),
    ]
    root = opened(tmp_path, packed({f"h/{name}": data for name, data in SMALL.items()}, *extra)).root
    assert root.read("sys/devices/system/node/node0/cpu1/topology/core_id") == "1"
    assert root.read("sys/class/up/cpu/online") == "0-1"
    assert root.target("sys/class/up") == "/sys/devices/system"
    assert root.read("sys/devices/system/node/node0/../../cpu/online") == "0-1"


HOSTILE = {
    "empty": (b"", "no tar archive"),
    "text": (b"this is no archive\n" * 100, "no tar archive, or damaged"),
    "only the end": (bytes(1024), "neither a folder sys/ nor proc/"),
    "something else's archive": (packed({"README": b"hello"}), "neither a folder sys/ nor proc/"),
    "climbing path": (packed(SMALL | {"../../etc/cron.d/x": b"x"}), "would lie outside"),
    "climbing path in the middle": (packed(SMALL | {"sys/../../x": b"x"}), "would lie outside"),
    "link out": (packed(SMALL, header("sys/x", tarfile.SYMTYPE, link="../../../etc/passwd")), "leads out of it"),
    "absolute link": (packed(SMALL, header("sys/x", tarfile.SYMTYPE, link="/etc/passwd")), "outside of the recording"),
    "link to itself": (packed(SMALL, header("sys/x", tarfile.SYMTYPE, link="x")), "run in a circle"),
    "two links in a circle": (
        packed(SMALL, header("sys/x", tarfile.SYMTYPE, link="y"), header("sys/y", tarfile.SYMTYPE, link="x")),
        "run in a circle",
    ),
    "hard link out": (packed(SMALL, header("sys/x", tarfile.LNKTYPE, link="/etc/passwd")), "not in the recording"),
    "device": (packed(SMALL, header("sys/x", tarfile.CHRTYPE)), "is a device"),
    "block device": (packed(SMALL, header("sys/x", tarfile.BLKTYPE)), "is a device"),
    "pipe": (packed(SMALL, header("sys/x", tarfile.FIFOTYPE)), "is a pipe"),
    "sparse file": (packed(SMALL, header("sys/x", tarfile.GNUTYPE_SPARSE)), "is a sparse file"),
    "huge file": (packed(SMALL, header("sys/x", size=1 << 33)), "no file of a recording may exceed"),
    "cpu is a file": (packed({"sys/devices/system/cpu": b"x"}), "is a file where a machine has a folder"),
    "cpu0 is a file": (packed({"sys/devices/system/cpu/cpu0": b"x"}), "is a file where a machine has a folder"),
    "node is a file": (packed(SMALL | {"sys/devices/system/node": b"x"}), "is a file where a machine has a folder"),
    "file and folder at once": (
        packed({"sys/devices/system/cpu/online": b"0", "sys/devices/system/cpu/online/x": b""}),
        "a folder at once",
    ),
    "folder and file at once": (packed({"sys/a/b": b"0", "sys/a": b""}), "there twice"),
    "bad manifest": (packed(SMALL | {"kvmlab-recording.json": b"[1"}), "cannot be read"),
    "manifest of another kind": (packed(SMALL | {"kvmlab-recording.json": b'{"refused": 7}'}), "cannot be read"),
    "manifest nested deep": (packed(SMALL | {"kvmlab-recording.json": b"[" * 100_000}), "cannot be read"),
    "deep": (packed({"sys/" + "d/" * 90 + "x": b""}), "folders deep"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_recording_or_a_trap_is_refused_with_the_reason(tmp_path, what):
    data, words = HOSTILE[what]
    with pytest.raises(RecordingError, match=words):
        opened(tmp_path, data)
    assert [path.name for path in tmp_path.rglob("*")] == ["host.tar"]  # nothing was written


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_recording_cut_short_anywhere_is_refused(tmp_path, pack):
    whole = pack(packed(SMALL))
    for length in range(0, len(whole) - (1024 if pack is bytes else 0), max(1, len(whole) // 40)):
        with pytest.raises(RecordingError):
            opened(tmp_path, whole[:length])


def test_a_missing_file_names_what_would_be_legal(tmp_path):
    with pytest.raises(RecordingError, match=r"there is no such recording\. Give a folder or a tar archive"):
        Host.open(tmp_path / "nothing")


def test_a_folder_with_a_pipe_or_a_huge_file_is_refused_without_waiting_for_it(tmp_path):
    place = tmp_path / "sys/devices/system/cpu"
    place.mkdir(parents=True)
    with open(place / "online", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecordingError, match="1,099,511,627,776 bytes"):
        Host.open(tmp_path)
    (place / "online").unlink()
    os.mkfifo(place / "online")
    with pytest.raises(RecordingError, match="device, pipe or socket"):
        Host.open(tmp_path)


@pytest.mark.parametrize("what", ["members", "bytes"])
def test_limits_stop_an_archive_that_never_ends(tmp_path, what, monkeypatch):
    """The memory is measured here, with the limits as they are; the time, by hand: ten million members end after a second."""
    path = tmp_path / "host.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        if what == "members":
            block = b"".join(header(f"sys/devices/x{n}") for n in range(1000))
            for _ in range(archive.MOST_MEMBERS // 1000 + 1):
                file.write(block)
        else:
            for n in range(archive.MOST_BYTES // (15 << 20) + 1):
                file.write(header(f"sys/z{n}", size=15 << 20) + bytes(15 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError, match=r"more than .* Record the host with kvmlab record"):
        Host.open(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_file_that_nobody_may_read_gives_na_with_that_reason(tmp_path):
    manifest = b'{"refused": ["sys/devices/system/cpu/cpu0/topology/core_id", "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"]}'
    files = {name: data for name, data in SMALL.items() if "core_id" not in name}
    cpus = opened(tmp_path, packed(files | {"kvmlab-recording.json": manifest, "sys/devices/system/cpu/cpu0/x": b"", "proc/x": b""})).cpus()
    assert cpus["core"].isna().all() and cpus["max_mhz"].isna().all()
    assert cpus.attrs["unavailable"]["core"] == "no permission to read /sys/devices/system/cpu/cpu0/topology/core_id"
    assert "no permission" in cpus.attrs["unavailable"]["max_mhz"] and "no permission" not in cpus.attrs["unavailable"]["min_mhz"]


# ---- whatever is in the files


def frames_or_error(path) -> str:
    """The frames of a recording, or a KvmlabError; anything else fails the test."""
    try:
        host = Host.open(path)
        for name in FRAMES:
            getattr(host, name)()
    except KvmlabError as error:
        return type(error).__name__
    return "frames"


def smallest() -> dict[str, bytes]:
    """The files of the project's own recording of a machine with one CPU."""
    with tarfile.open(REPOSITORY / "tests/hosts/x86_64-1s1c1t.tar.xz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


GARBAGE = [b"", b"-1", b"65535", b"99999999999999999999", b"9223372036854775808", b"1e9", b"0x10", b"\xff\xfe", b"\0", b"0-", b"5-1"]
GARBAGE += [
    b"0-99999999",
    b"4294967295",
    b",,,",
    b"ffffffff," * 300,
    b"(null)",
    b"all",
    "\u0663".encode(),
    b"NaN",
    b"\n\n",
    b"a:b",
    b"0-65535",
]


def mutated(files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """Some files emptied, replaced, cut, flipped, swapped, moved or removed."""
    result = dict(files)
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        name = chance.choice(sorted(result))
        data = bytearray(result[name])
        match chance.randrange(7):
            case 0:
                result[name] = chance.choice(GARBAGE)
            case 1:
                result[name] = bytes(data[: chance.randrange(len(data) + 1)])
            case 2 if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
                result[name] = bytes(data)
            case 3:
                result[name] = result[chance.choice(sorted(result))]
            case 4 if len(result) > 5:
                del result[name]
            case 5:
                result[name.replace("cpu0", f"cpu{chance.choice((1, 7, 4096, 70000, 999999999))}")] = bytes(data)
            case 6:
                words = bytes(data).split(b" ")
                words[chance.randrange(len(words))] = chance.choice(GARBAGE)
                result[name] = b" ".join(words)
    return result


@pytest.mark.parametrize("part", range(4))
def test_mutated_recordings_give_frames_or_errors_of_ours(tmp_path, part):
    """Mostly the content of files is changed; one in ten times the bytes of the archive. Ten thousand found no more."""
    files, seen, path = smallest(), {}, tmp_path / "host.tar"
    for seed in range(400 * part, 400 * part + 400):
        chance = random.Random(seed)
        data = bytearray(packed(mutated(files, chance)))
        if seed % 10 == 0:
            for _ in range(chance.choice((1, 3, 20))):
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            outcome = frames_or_error(path)
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error
        seen[outcome] = seen.get(outcome, 0) + 1
    assert seen["frames"] > 200 and seen["RecordingError"] > 4


@given(st.binary(max_size=3000))
def test_any_bytes_are_a_recording_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "host.tar"
    path.write_bytes(data)
    assert frames_or_error(path) == "RecordingError"


def test_a_recording_without_any_cpu_is_none(tmp_path):
    (tmp_path / "proc").mkdir()
    with pytest.raises(RecordingError, match="holds neither sys/devices/system/cpu nor proc/cpuinfo"):
        Host.open(tmp_path)


def test_the_root_of_this_machine_is_no_recording():
    with pytest.raises(RecordingError, match=r"is this machine, not a recording: use Host\(\)"):
        Host.open("/")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_is_neither_a_file_nor_a_folder(path):
    with pytest.raises(RecordingError, match="is neither a file nor a folder"):
        Host.open(path)


def test_what_a_recording_lacks_is_not_laid_to_this_machine():
    recorded = Host.open(REPOSITORY / "tests/hosts/x86_64-1s1c1t.tar.xz")
    assert recorded.cpu_times().attrs["unavailable"]["time_s"].startswith("not in this recording")
    assert recorded.kvm().empty and recorded.kvm().attrs["unavailable"]["value"] == "nothing of this is in x86_64-1s1c1t.tar.xz"
    assert recorded.distances().attrs["host"] == "x86_64-1s1c1t.tar.xz"
