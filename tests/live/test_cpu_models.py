"""CPU models as virsh, QEMU and the guest's own CPUID have them."""

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import cpu_models, cpu_table, cpuid, cpumap
from kvmlab.guest.cpu_xml import cpu_xml
from kvmlab.guest.cpuid_flags import libvirt_features


@pytest.fixture(scope="module")
def labs(live):
    """A Lab of each kind that this machine has, by name."""
    from kvmlab import Lab

    opened = {"tcg": Lab(accel="tcg")}
    with suppress(KvmlabError):
        opened["kvm"] = Lab(accel="kvm")
    yield opened
    for lab in opened.values():
        lab.close()


@pytest.fixture(scope="module")
def tcg(labs):
    return labs["tcg"]


@pytest.fixture(scope="module")
def trials(tcg):
    """Under TCG, where what is there and what is not does not depend on the machine's processor."""
    frames = {
        "plain": cpu_table.trials(tcg, ["qemu32", "maximum", "host-passthrough"]),
        "checked": cpu_table.trials(tcg, ["Westmere"], match=["minimum", "exact"], check=["full"]),
        "dropped": cpu_table.trials(tcg, ["Skylake-Client"], check=["none", "partial"]),
    }
    return {kind: frame.set_index(["model", "match", "check"]) for kind, frame in frames.items()}


def virsh(lab, *words) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, *words], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arch", ["x86_64", "ppc64"])
def test_the_models_are_those_that_virsh_lists(tcg, arch):
    models = cpu_models.models(tcg.connection, arch)
    assert models["model"].tolist() == virsh(tcg, "cpu-models", arch).split()
    assert set(models["vendor"].dropna()) == {"x86_64": {"Intel", "AMD", "Hygon"}, "ppc64": {"IBM", "Freescale"}}[arch]


@pytest.mark.parametrize("arch", ["aarch64", "s390x"])
def test_an_architecture_without_a_list_says_so(tcg, arch):
    if "all CPU models are accepted" not in virsh(tcg, "cpu-models", arch):
        pytest.skip(f"this libvirt has a list of {arch}")
    models = cpu_models.models(tcg.connection, arch)
    if "unable to find any emulator" in models.attrs["unavailable"].get("model", ""):
        assert models.empty
    assert models.empty == (f"no list of {arch}" in models.attrs["unavailable"].get("model", ""))


def test_what_is_usable_is_what_virsh_says_and_lacks_nothing(labs):
    models = cpu_models.models(labs["tcg"].connection).set_index("model")
    for accel in labs:
        root = ET.fromstring(virsh(labs["tcg"], "domcapabilities", "--virttype", cpu_models.DOMAIN_TYPE[accel]))
        listed = {model.text: model.get("usable") == "yes" for model in root.findall("cpu/mode[@name='custom']/model")}
        assert listed and models.loc[list(listed), accel].to_dict() == listed
        assert (models.loc[list(listed), f"{accel}_missing"] == "").to_dict() == listed
        others = models.index.difference(list(listed))
        assert not models.loc[others, accel].any() and models.loc[others, f"{accel}_missing"].isna().all()


def test_the_versions_are_those_of_qemus_own_list(tcg):
    models = cpu_models.models(tcg.connection).set_index("model")
    emulator = ET.fromstring(virsh(tcg, "domcapabilities")).findtext("path")
    listed = re.findall(
        r"^(?:x86)?\s*(\S+-v\d+)\b", subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True).stdout, re.M
    )
    for name in ("Westmere", "Haswell-IBRS", "EPYC", "qemu64"):
        family = re.sub(r"-v\d+$", "", models.loc[name, "alias_of"])
        versions = re.findall(r"\S+-v\d+", models.loc[name, "versions"])
        assert sorted(versions) == sorted(v for v in listed if re.fullmatch(re.escape(family) + r"-v\d+", v)), name
    assert "(Westmere-IBRS)" in models.loc["Westmere", "versions"]


def test_what_a_model_becomes_is_what_virsh_makes_of_it(tcg, tmp_path):
    path = tmp_path / "cpu.xml"
    path.write_text(cpu_xml("Skylake-Client"))
    virshs = ET.fromstring(virsh(tcg, "hypervisor-cpu-baseline", str(path), "--virttype", "qemu", "--features"))
    ours = cpu_models.expand(tcg.connection, cpu_xml("Skylake-Client"), "tcg")
    assert ours["model"].unique().tolist() == [virshs.findtext("model")]
    taken_out = dict(zip(ours["feature"], ours["origin"] == "taken out", strict=True))
    assert taken_out == {f.get("name"): f.get("policy") == "disable" for f in virshs.findall("feature")}
    assert not ours["possible"][ours["origin"] == "taken out"].any()


def test_a_flag_that_cannot_be_had_is_told_though_libvirt_takes_it(tcg):
    ours = cpu_models.expand(tcg.connection, cpu_xml("host-model", add=["vmx"], remove=["lm"]), "tcg").set_index("feature")
    assert not ours.loc["vmx", "possible"] and ours.loc["vmx", "origin"] == "added"  # TCG has none
    assert not ours.loc["lm", "possible"] and ours.loc["lm", "origin"] == "taken out"
    handed_on = cpu_models.expand(tcg.connection, cpu_xml("maximum"), "tcg")
    assert handed_on.empty and "ask its CPUID" in handed_on.attrs["unavailable"]["feature"]


def test_host_model_is_what_a_guest_gets(tcg):
    guest = tcg.start("hx-model", cpu=cpu_xml("host-model"))
    expanded = cpu_models.expand(tcg.connection, cpu_xml("host-model"), "tcg")
    seen = cpu_table.asked_got(tcg.connection, guest)
    guest.destroy()
    possible = set(expanded["feature"][expanded["possible"]])
    assert possible and possible <= set(seen["feature"][seen["verdict"].isin(["got", "not told"])])
    assert "dropped" not in set(seen["verdict"])


def test_what_was_added_and_dropped_is_what_libvirt_saw_after_the_start(tcg):
    guest = tcg.start("hx-drop", cpu=cpu_xml("Skylake-Client"))
    seen = cpu_table.asked_got(tcg.connection, guest)
    shown, live = libvirt_features(guest.cpuid_all()), ET.fromstring(virsh(tcg, "dumpxml", "hx-drop")).findall("cpu/feature")
    guest.destroy()
    told = {name for name, feature in cpumap.load().features().items() if any(place.kind == "cpuid" for place in feature.places)}
    policies = {feature.get("name"): feature.get("policy") for feature in live if feature.get("name") in told}
    for verdict, policy in (("dropped", "disable"), ("added", "require")):
        assert set(seen["feature"][seen["verdict"] == verdict]) == {name for name in policies if policies[name] == policy}, verdict
    assert set(seen["feature"][seen["got"]]) == shown & set(cpumap.load().features())
    assert "pcid" in set(seen["feature"][seen["verdict"] == "dropped"])  # which no TCG of QEMU's has had


def test_asked_seen_by_libvirt_and_shown_by_cpuid_stand_side_by_side(labs):
    """Where the processor answers CPUID itself, under some KVMs, it shows more than libvirt knows: three views, each its own."""
    for accel, lab in labs.items():
        guest = lab.start("hx-see", cpu=cpu_xml("kvm64", check="none"))
        seen = cpu_table.asked_got(lab.connection, guest)
        shown = libvirt_features(guest.cpuid_all())
        guest.destroy()
        assert seen["guest"].unique().tolist() == ["hx-see"]
        assert set(seen["feature"][seen["asked"]]) == cpumap.load().model("kvm64").features, accel
        assert set(seen["feature"][seen["got"]]) == shown & set(cpumap.load().features()), accel
        assert seen["why"].isna().tolist() == ((seen["asked"] == seen["got"]) & seen["live"]).tolist(), accel


def test_a_refusal_is_a_row_with_libvirts_words(trials):
    refused = trials["plain"].loc["host-passthrough"].iloc[0]
    assert not refused["starts"] and "host-passthrough" in refused["words"] and "not supported by hypervisor" in refused["words"]
    exact = trials["checked"].loc[("Westmere", "exact", "full")]
    assert not exact["starts"] and re.search(r"guest CPU doesn't match specification: extra features: \S*hypervisor", exact["words"])
    partial = trials["dropped"].xs("partial", level="check").iloc[0]
    assert not partial["starts"] and "Host CPU does not provide required features" in partial["words"] and "pcid" in partial["words"]


def test_what_starts_says_what_it_became(trials, tcg):
    qemu32, maximum = (trials["plain"].loc[model].iloc[0] for model in ("qemu32", "maximum"))
    assert qemu32["becomes"] == "qemu32" and "hypervisor" in qemu32["added"].split(", ") and "sse2" not in qemu32["dropped"].split(", ")
    assert maximum["starts"] and maximum["got_flags"] > qemu32["got_flags"] and trials["plain"].loc[["maximum"], "dropped"].isna().all()
    at_least = trials["checked"].loc[("Westmere", "minimum", "full")]  # which stands for all that there is: host-model
    host_model = ET.fromstring(virsh(tcg, "domcapabilities", "--virttype", "qemu")).findtext("cpu/mode[@name='host-model']/model")
    assert at_least["starts"] and at_least["becomes"] == host_model and at_least["got_flags"] > qemu32["got_flags"]
    assert "pcid" in trials["dropped"].xs("none", level="check").iloc[0]["dropped"].split(", ")


def test_fallback_decides_over_models_that_the_hypervisor_does_not_know(tcg):
    models = cpu_models.models(tcg.connection)
    unknown = models["model"][models["deprecated"].isna()].tolist()
    if not unknown:
        pytest.skip("QEMU here knows all of libvirt's models")
    allowed, refused = (cpu_table.trials(tcg, unknown[:1], fallback=[word]).iloc[0] for word in ("allow", "forbid"))
    assert allowed["starts"] and allowed["becomes"] != unknown[0]
    assert refused["words"].endswith(f"CPU model {unknown[0]} is not supported by hypervisor")


def test_passthrough_shows_the_hosts_own_name_or_says_why_not(labs):
    if "kvm" not in labs:
        pytest.skip("no KVM here")
    try:
        guest = labs["kvm"].start("hx-pass", cpu="host-passthrough")
    except KvmlabError as error:  # some nested KVMs refuse a register of the host's
        pytest.skip(f"host-passthrough does not start here: {error}")
    leaves, seen = guest.cpuid_all(), cpu_table.asked_got(labs["kvm"].connection, guest)
    guest.destroy()
    assert cpuid.brand(leaves).name == re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    assert seen["live"].isna().all() and "hands" not in seen.attrs["unavailable"].get("asked", "")
    assert (seen["verdict"] == "got").sum() > (seen["verdict"] != "got").sum()


def test_trials_leave_no_guest_behind(trials, tcg):
    assert not any(name.startswith(f"trial-{os.getpid()}-") for name in virsh(tcg, "list", "--all", "--name").split())


def test_words_that_libvirt_does_not_have_are_refused_before_a_guest_starts(tcg):
    with pytest.raises(KvmlabError, match="match='most'"):
        cpu_table.trials(tcg, ["qemu64"], match=["most"])
    with pytest.raises(KvmlabError, match="Nearest: Westmere"):
        cpu_table.trials(tcg, ["qemu64", "Westmare"])


def test_a_guest_of_somebody_elses_called_trial_is_no_refusal(tcg):
    other = tcg.start("trial-0")
    assert cpu_table.trials(tcg, ["qemu64"])["starts"].all()
    other.destroy()


def test_why_maximum_adds_and_drops_nothing_is_told(tcg):
    tried = cpu_table.trials(tcg, ["maximum"])
    assert tried["starts"].all() and tried["dropped"].isna().all()
    assert all("nothing is asked by name" in tried.attrs["unavailable"][column] for column in ("added", "dropped"))
