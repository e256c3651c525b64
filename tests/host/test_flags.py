import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.columns import frame
from kvmlab.host import cpulist, flags
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need

TABLE = Path(flags.__file__).with_name("flags.txt")


class Recorded(SysRoot):
    """A machine of which nothing is known but its /proc/cpuinfo."""

    def __init__(self, cpuinfo: str | bytes):
        super().__init__("/nowhere")
        self.cpuinfo = cpuinfo.encode() if isinstance(cpuinfo, str) else cpuinfo

    def read_bytes(self, path: str) -> bytes | None:
        return self.cpuinfo if path == "proc/cpuinfo" else None


def cpus_of(cpuinfo: str | bytes) -> dict[str, str | None]:
    return {flag: cpus for flag, cpus, _, _ in flags.rows(Recorded(cpuinfo))}


def lscpu_fields(entries: list) -> dict[str, str]:
    inner = [lscpu_fields(entry.get("children", [])) for entry in entries]
    return {entry["field"]: entry["data"] for entry in entries} | {name: data for part in inner for name, data in part.items()}


def test_flags_of_this_machine_are_those_of_lscpu():
    if not shutil.which("lscpu"):
        need("no lscpu")
    run = subprocess.run(["lscpu", "--json"], capture_output=True, text=True, check=True)
    expected = lscpu_fields(json.loads(run.stdout)["lscpu"]).get("Flags:")
    if expected is None:
        need("lscpu lists no flags here")
    of_vmx = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("vmx flags")]  # lscpu leaves them out
    ours = frame(flags.rows(SysRoot()), "flags")
    assert set(ours.flag) == set(expected.split()) | {flag for line in of_vmx for flag in line.partition(":")[2].split()}
    assert ours.flag.is_unique
    assert list(ours.flag)[: len(set(expected.split()))] == list(dict.fromkeys(expected.split()))  # the kernel's order


def test_each_cpu_of_this_machine_has_the_flags_of_its_paragraph():
    ours = frame(flags.rows(SysRoot()), "flags")
    paragraphs = [dict(line.split(":", 1) for line in p.splitlines()) for p in Path("/proc/cpuinfo").read_text().strip().split("\n\n")]
    fields = [{name.strip(): value for name, value in paragraph.items()} for paragraph in paragraphs]
    if "flags" not in fields[0]:
        need("no x86 here")
    for cpu in fields:
        with_it = set(ours.flag[[int(cpu["processor"]) in cpulist.parse(cpus) for cpus in ours.cpus]])
        assert with_it == set(cpu["flags"].split()) | set(cpu.get("vmx flags", "").split())


def test_a_flag_that_some_cpus_lack_names_the_others():
    big, small = "flags\t\t: fpu avx512f sse", "flags\t\t: fpu sse"
    text = "\n\n".join(f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\n{small if cpu in (4, 6) else big}" for cpu in (0, 1, 2, 4, 6, 7))
    assert cpus_of(text) == {"fpu": "0-2,4,6-7", "avx512f": "0-2,7", "sse": "0-2,4,6-7"}


def test_vmx_flags_join_the_others_and_a_name_in_both_is_one_row():
    text = "processor\t: 0\nflags\t\t: vmx ept\nvmx flags\t: vnmi ept mtf\n\nprocessor\t: 1\nflags\t\t: vmx\n"
    rows = {row[0]: row for row in flags.rows(Recorded(text))}
    assert {flag: row[1] for flag, row in rows.items()} == {"vmx": "0-1", "ept": "0", "vnmi": "0", "mtf": "0"}
    assert {row[2] for row in rows.values()} == {"virtualization"}


def test_flags_written_once_belong_to_all_cpus():
    arm = (
        "Processor\t: ARMv7 Processor rev 4 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 1.0\n\n"
        "processor\t: 1\nBogoMIPS\t: 1.0\n\nFeatures\t: swp vfp \nCPU part\t: 0xc0f\n"
    )
    assert cpus_of(arm) == {"swp": "0-1", "vfp": "0-1"}
    s390 = "vendor_id       : IBM/S390\n# processors    : 3\nfeatures\t: esan3 sie \n" + "".join(
        f"processor {cpu}: version = 00,  identification = 279F25,  machine = 2817\n" for cpu in (1, 2, 5)
    )
    assert cpus_of(s390 + "\ncpu number      : 1\ncpu MHz static  : 5200\n") == {"esan3": "1-2,5", "sie": "1-2,5"}
    alone = "Processor\t: ARM926EJ-S rev 5 (v5l)\nFeatures\t: swp half\nHardware\t: x\n"  # one CPU, an old kernel: no number at all
    assert cpus_of(alone) == {"swp": None, "half": None}


def test_an_isa_of_riscv_is_letters_and_names():
    text = (
        "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imac_zicsr\nmmu\t\t: sv39\nhart isa\t: rv64imacv_zicsr_zba\n\n"
        "processor\t: 1\nhart\t\t: 2\nisa\t\t: rv64imac_zicsr\nmmu\t\t: sv39\nhart isa\t: rv64imac_zicsr\n"
    )
    assert cpus_of(text) == {"i": "0-1", "m": "0-1", "a": "0-1", "c": "0-1", "zicsr": "0-1", "v": "0", "zba": "0"}
    assert list(cpus_of("processor: 0\nisa: rv32imacxventana_zba\n")) == ["i", "m", "a", "c", "xventana", "zba"]


def test_other_architectures():
    mips = "processor\t\t: 0\nisa\t\t\t: mips1 mips64r2\nASEs implemented\t: vz msa loongson-mmi\n"
    assert cpus_of(mips) == {"vz": "0", "msa": "0", "loongson-mmi": "0"}
    loongarch = (
        "system type\t\t: x\n\nprocessor\t\t: 0\nCPU Family\t\t: Loongson-64bit\nISA\t\t\t: loongarch64\nFeatures\t\t: lam lvz crypto"
    )
    assert [row[:3] for row in flags.rows(Recorded(loongarch))] == [
        ("lam", "0", "basic"),
        ("lvz", "0", "virtualization"),
        ("crypto", "0", "crypto"),
    ]
    assert cpus_of("processor\t: 0\ncpu\t\t: POWER7\nclock\t\t: 3720.0MHz\n\nmachine\t\t: CHRP\n") == {}
    assert cpus_of("cpu\t\t: TI UltraSparc II\ncpucaps\t\t: flush,stbar\nncpus probed\t: 6\nState:\nCPU6:\t\tonline\n") == {}


def test_one_name_means_what_it_does_on_its_architecture():
    x86 = {row[0]: row for row in flags.rows(Recorded("processor\t: 0\nflags\t\t: sme lam cpuid\n"))}
    arm = {row[0]: row for row in flags.rows(Recorded("processor\t: 0\nFeatures\t: sme cpuid\nCPU part\t: 0xd4f\n"))}
    assert (x86["sme"][2], arm["sme"][2]) == ("security", "simd")
    assert x86["cpuid"][3] != arm["cpuid"][3]


def test_a_flag_nobody_explained_keeps_its_name_and_cpus():
    rows = list(flags.rows(Recorded("processor\t: 3\nflags\t\t: fpu tomorrows_flag\n")))
    assert rows[1] == ("tomorrows_flag", "3", None, None)
    assert frame(rows, "flags").meaning.isna().tolist() == [False, True]


@pytest.mark.parametrize("number", ["4294967296", "65536", "-1", "x", "", "٣"])
def test_a_cpu_whose_number_is_none_has_no_name_in_the_list(number):
    assert cpus_of(f"processor\t: {number}\nflags\t\t: only_here both\n\nprocessor\t: 1\nflags\t\t: both\n") == {
        "only_here": None,
        "both": "1",
    }


def test_a_cpu_listed_twice_has_the_flags_of_both():
    assert cpus_of("processor: 0\nflags: a\n\nprocessor: 0\nflags: b\n\nprocessor: 0\nflags: a\n") == {"a": "0", "b": "0"}


def test_a_machine_of_512_cpus():
    names = " ".join(f"flag{n}" for n in range(200))
    text = "\n\n".join(f"processor\t: {cpu}\nflags\t\t: {names}{' odd' * (cpu % 2)}" for cpu in range(512))
    found = cpus_of(text)
    assert len(found) == 201 and found["flag7"] == "0-511" and cpulist.parse(found["odd"]) == tuple(range(1, 512, 2))


def test_a_cpuinfo_made_to_waste_time_ends():
    """65,536 CPUs, each with a flag of its own that a line for all of them has too: work must grow with the text, not with its square."""
    every = " ".join(f"f{cpu}" for cpu in range(65536))
    text = f"flags: {every}\n\n" + "".join(f"processor: {cpu}\nflags: f{cpu}\n\n" for cpu in range(65536))
    found = cpus_of(text + "".join(f"flags: f0 g{n}\n\n" for n in range(65536)))
    assert len(found) == 2 * 65536 and set(found.values()) == {"0-65535"}


KEYS = (
    "processor\t: ",
    "processor ",
    "flags\t\t: ",
    "vmx flags\t: ",
    "Features\t: ",
    "features: ",
    "isa\t: rv64",
    "hart isa: ",
    "ASEs implemented: ",
)
REST = ("\n", "\n\n", ":", " ", "0", "7", "9999999999", "fpu", "sse", "_zba", "CPU Family", "\x00", "\x85", "\u2028", "\udcff")
PIECES = st.sampled_from(KEYS + REST)


@given(st.binary() | st.lists(PIECES | st.text(max_size=5), max_size=40).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass")))
def test_any_cpuinfo_gives_rows(data):
    rows = list(flags.rows(Recorded(data)))
    assert frame(rows, "flags").shape == (len(rows), 4)
    for flag, cpus, group, meaning in rows:
        assert flag and flag.split() == [flag] and (group is None) == (meaning is None)
        assert cpus is None or cpulist.format(cpulist.parse(cpus)) == cpus != ""


@given(st.dictionaries(st.integers(0, 99), st.sets(st.sampled_from(["fpu", "sse", "avx", "svm", "npt", "x"]))))
def test_cpus_of_a_flag_are_those_whose_line_has_it(machine):
    text = "\n\n".join(f"processor\t: {cpu}\nflags\t\t: {' '.join(sorted(have))}" for cpu, have in machine.items())
    expected = {flag: {cpu for cpu, have in machine.items() if flag in have} for flag in set().union(*machine.values())}
    assert {flag: set(cpulist.parse(cpus)) for flag, cpus in cpus_of(text).items()} == expected


def test_the_table_is_well_formed():
    section, seen = "", {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif line and not line.startswith("#"):
            flag, group, meaning = line.split(" | ")
            assert flag.split() == [flag] and group in flags.GROUPS and meaning.strip() == meaning != "", line
            assert (section, flag) not in seen, f"{flag} is twice in [{section}]"
            seen[section, flag] = group
    of_guests = [flag for (name, flag), group in seen.items() if name == "x86" and group in flags.GROUPS[:4]]
    counts = {name: sum(1 for known, _ in seen if known == name) for name, _ in seen}
    assert len(of_guests) >= 150 and len(seen) >= 220
    assert counts.keys() == {"x86", "arm", "s390", "riscv", "loongarch", "mips"} and all(count >= 10 for count in counts.values())


def test_the_groups_are_explained_and_used():
    used = {line.split(" | ")[1] for line in TABLE.read_text().splitlines() if line.count("|") == 2 and not line.startswith("#")}
    assert used == set(flags.GROUPS)
    assert all(group in flags.__doc__ for group in flags.GROUPS)
