"""Which models start and which guests move, on recorded and made-up hosts: rules, words and errors. libvirt's answers: tests/live."""

from pathlib import Path

import pandas as pd
import pytest

from kvmlab import Host, models
from kvmlab.errors import CpuModelError
from kvmlab.guest import cpumap
from kvmlab.guest.flag_names import shown_as
from kvmlab.guest.host_cpu import Cpu, movable
from tests.conftest import REPOSITORY, need

HOSTS = REPOSITORY / "tests" / "hosts"


@pytest.fixture(autouse=True)
def here():
    need(None if Path(cpumap.FOLDER, "index.xml").exists() else f"{cpumap.FOLDER} is not here")


def recorded(name: str) -> Host:
    return Host.open(HOSTS / f"{name}.tar.xz")


def written(folder: Path, cpuinfo: str, name: str = "made") -> Host:
    """A recording that holds only this /proc/cpuinfo."""
    (folder / name / "proc").mkdir(parents=True)
    (folder / name / "sys").mkdir()
    (folder / name / "proc" / "cpuinfo").write_text(cpuinfo)
    return Host.open(folder / name)


def intel(flags: str, model: int = 85, cpus: int = 1) -> str:
    one = "processor\t: {}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {}\nstepping\t: 4\nflags\t\t: {}\n\n"
    return "".join(one.format(cpu, model, flags) for cpu in range(cpus))


def one(frame):
    assert len(frame) == 1
    return next(frame.itertuples())


def test_a_recorded_nehalem_starts_nehalem_and_lacks_aes_for_westmere():
    host = recorded("x86_64-2s2c1t")  # QEMU's Nehalem, says its name in /proc/cpuinfo
    frame = models.will_start(["Nehalem", "Westmere"], host)
    assert frame["starts"].tolist() == [True, False]
    assert frame["missing"].tolist() == ["", "aes"]
    assert set(frame["host_vendor"]) == {"Intel"} and frame.attrs["unavailable"] == {}


def test_each_gap_has_its_reason():
    frame = models.will_start(None, [recorded("x86_64-2s2c1t"), recorded("aarch64-2n2s2cl2c2t")])
    assert (
        set(frame.attrs["unavailable"])
        == set(frame.columns[frame.isna().any()])
        == {"starts", "missing", "unknown", "vendor", "host_vendor"}
    )


def test_missing_flags_have_the_kernel_s_names():
    """libvirt's sse4.1 is the kernel's sse4_1, and spec-ctrl shows as ibpb and ibrs."""
    row = one(models.will_start(["Nehalem-IBRS"], Cpu.of_model("Conroe")))
    assert row.missing == "cx16, ibpb, ibrs, popcnt, sse4_1, sse4_2"


def test_what_cpuinfo_never_shows_is_unknown_and_not_missing(tmp_path):
    milan = cpumap.load().model("EPYC-Milan")
    flags = " ".join({word for feature in milan.features for word in shown_as(feature)})
    text = f"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nstepping\t: 1\nflags\t\t: {flags}\n"
    frame = models.will_start(["EPYC-Milan", "EPYC-Rome"], written(tmp_path, text))
    row = next(frame.itertuples())
    assert pd.isna(row.starts)
    assert (row.missing, row.unknown) == ("", "svme-addr-chk")
    assert "never shows" in frame.attrs["unavailable"]["starts"]
    assert frame["starts"][1]


def test_bits_of_arch_capabilities_are_missing_where_the_flag_is(tmp_path):
    without = one(models.will_start(["Cooperlake"], written(tmp_path, intel("fpu lm"), "without")))
    with_it = one(models.will_start(["Cooperlake"], written(tmp_path, intel("fpu lm arch_capabilities"), "with")))
    assert "rdctl-no" in without.missing.split(", ") and "rdctl-no" not in without.unknown.split(", ")
    assert "rdctl-no" in with_it.unknown.split(", ") and "rdctl-no" not in with_it.missing.split(", ")


def test_flags_that_a_kernel_took_off_its_list_are_unknown_or_sure(tmp_path):
    """la57 may be there; sep is there on any 64-bit processor, but for one that a hypervisor made."""
    machine = Cpu.of_host(written(tmp_path, intel("fpu lm"), "machine"))
    guest = Cpu.of_host(written(tmp_path, intel("fpu lm hypervisor"), "guest"))
    assert "la57" in machine.unknown and "sep" in machine.features - machine.unknown
    assert {"sep", "la57"} <= guest.unknown - guest.features


def test_a_host_whose_cpus_differ_has_what_all_of_them_have(tmp_path):
    text = intel("fpu sse avx") + intel("fpu sse").replace("processor\t: 0", "processor\t: 1")
    assert Cpu.of_host(written(tmp_path, text)).features == {"fpu", "sse"}


def test_broken_tsx_does_not_count_as_libvirt_has_it(tmp_path):
    assert "rtm" not in Cpu.of_host(written(tmp_path, intel("fpu hle rtm", model=60), "haswell")).features
    assert "rtm" in Cpu.of_host(written(tmp_path, intel("fpu hle rtm", model=85), "skylake")).features
    other_family = intel("fpu hle rtm", model=60).replace("family\t: 6", "family\t: 15")
    assert "rtm" in Cpu.of_host(written(tmp_path, other_family, "other")).features


def test_the_hosts_model_is_the_one_of_its_signature_where_it_has_all_flags():
    """A Skylake by its stepping stays one, with all of a Cascade Lake's flags too."""
    features = cpumap.load().model("Cascadelake-Server").features
    assert Cpu("h", "x86", "Intel", features, signature=(6, 85, 4)).model == "Skylake-Server-IBRS"
    assert Cpu("h", "x86", "Intel", features, signature=(6, 85, 7)).model == "Cascadelake-Server"
    assert Cpu("h", "x86", "Intel", features - {"mpx", "spec-ctrl"}, signature=(6, 85, 4)).model == "Broadwell"


def test_a_model_that_libvirt_keeps_for_old_guests_describes_no_host():
    """cpu_map: <decode host='off'/>."""
    old = cpumap.load().model("cpu64-rhel6")
    assert not old.decode_host and Cpu("h", "x86", None, old.features).model != "cpu64-rhel6"


def test_a_guest_moves_up_the_generations_and_not_down():
    old, new = Cpu.of_model("Westmere"), Cpu.of_model("IvyBridge")
    frame = models.will_migrate([old, new]).set_index("source")
    assert frame["moves"].to_dict() == {"Westmere": True, "IvyBridge": False}
    assert {"avx", "rdtscp", "erms"} <= set(frame.loc["IvyBridge", "missing"].split(", "))
    assert set(frame["best_model"]) == {"Westmere"}


def test_flags_that_no_guest_gets_or_every_guest_gets_do_not_stand_in_the_way():
    westmere = Cpu.of_model("Westmere")
    more = Cpu("more", "x86", "Intel", westmere.features | {"ht", "monitor", "dca", "x2apic", "invtsc", "hypervisor"})
    assert models.will_migrate([more, westmere])["moves"].all()
    assert movable({"invtsc", "monitor", "x2apic", "avx"}) == {"avx"}


def test_between_vendors_nothing_moves_and_no_model_is_offered():
    frame = models.will_migrate([Cpu.of_model("Opteron_G1"), Cpu.of_model("Westmere")])
    assert not frame["moves"].any() and frame["best_model"].isna().all()
    assert "best_model" in frame.attrs["unavailable"]


def test_arm_hosts_have_models_but_no_answer():
    host = recorded("aarch64-2n2s2cl2c2t")
    frame = models.will_start(None, host)
    assert len(frame) == len(cpumap.load().models("aarch64")) and frame[["starts", "missing"]].isna().all(axis=None)
    assert "only the machine itself" in frame.attrs["unavailable"]["starts"]
    mixed = models.will_start(["Westmere"], {"arm": host, "old": Cpu.of_model("Nehalem"), "new": Cpu.of_model("SandyBridge")})
    assert mixed["starts"].isna().tolist() == [True, False, False] and mixed["starts"].tolist()[1:] == [False, True]
    across = models.will_migrate({"arm": host, "new": Cpu.of_model("SandyBridge"), "epyc": Cpu.of_model("EPYC")})
    assert across["why"].tolist()[0] == "arm to x86: another architecture" and not across["moves"].any()
    assert across.set_index(["source", "destination"])["why"]["new", "epyc"] == "Intel to AMD: another vendor"
    with pytest.raises(CpuModelError, match="is arm: only x86 hosts have a baseline"):
        models.baseline(host)


def test_a_baseline_names_what_is_beside_its_model():
    answer = models.baseline({"old": Cpu.of_model("Westmere"), "new": Cpu.of_model("IvyBridge")})
    assert (answer.model, answer.add, answer.remove) == ("Westmere", (), ())
    assert answer.xml == "<cpu mode='custom' match='exact'><model>Westmere</model></cpu>"
    assert str(answer) == "2 hosts have in common: Westmere."


def test_a_baseline_that_is_to_move_leaves_invtsc_out():
    with_it = Cpu("h", "x86", "Intel", cpumap.load().model("Westmere").features | {"invtsc"})
    assert models.baseline(with_it).add == ()
    assert models.baseline(with_it, migratable=False).add == ("invtsc",)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], "no host at all"),
        (["Westmere", "EPYC"], "'Westmere' is Intel, 'EPYC' is AMD: guests do not move live between vendors"),
    ],
)
def test_a_baseline_that_cannot_be_says_why(hosts, words):
    with pytest.raises(CpuModelError, match=words):
        models.baseline([Cpu.of_model(name) for name in hosts])


def test_hosts_with_nothing_in_common_are_named():
    one_flag = [Cpu(flag, "x86", "Intel", frozenset([flag])) for flag in ("sse", "avx")]
    with pytest.raises(CpuModelError, match="no flag in common: sse, avx"):
        models.baseline(one_flag)


def test_bad_hosts_and_models_are_named(tmp_path):
    with pytest.raises(CpuModelError, match=r"no CPU model 'Westmeer' of x86_64\. Nearest: Westmere.*virsh cpu-models x86_64"):
        models.will_start(["Westmeer"], Cpu.of_model("EPYC"))
    with pytest.raises(CpuModelError, match="Two hosts are called 'EPYC'"):
        models.will_migrate([Cpu.of_model("EPYC"), Cpu.of_model("EPYC")])
    with pytest.raises(CpuModelError, match="'this' is no host: pass Host"):
        models.will_start(None, ["this"])
    with pytest.raises(CpuModelError, match="'empty': its /proc/cpuinfo is missing"):
        models.will_start(None, written(tmp_path, "", "empty"))
    with pytest.raises(CpuModelError, match="The CPU of 'h' is no XML"):
        Cpu.of_xml("<cpu", "h")
    with pytest.raises(CpuModelError, match="The XML of 'h' has no <model>"):
        Cpu.of_xml("<cpu/>", "h")


def test_a_mapping_names_the_hosts_and_made_up_ones_are_told():
    same = Cpu.of_model("EPYC")
    frame = models.will_start(["EPYC"], {"a": same, "b": same, "n": recorded("x86_64-2s2c1t")})
    assert frame["host"].tolist() == ["a", "b", "n"]
    assert frame.attrs["made_up"] == ["a", "b"]


def test_frames_of_no_host_have_all_columns():
    assert models.will_start(None, []).empty and models.will_migrate(Cpu.of_model("EPYC")).empty
    assert list(models.will_migrate([])) == ["source", "destination", "moves", "missing", "best_model", "why"]
