"""What cpu_models reads out of answers that this machine's libvirt does not give: a fake connection hands them in."""

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import cpu_models

# libvirt 10.9's documentation of the domain capabilities: the blockers of a model stand beside it
LATER = """<domainCapabilities><path>/nowhere/qemu</path><arch>x86_64</arch><cpu>
  <mode name='host-model' supported='yes'><model fallback='forbid'>Broadwell</model></mode>
  <mode name='custom' supported='yes'>
    <model usable='yes' deprecated='no' vendor='Intel' canonical='Westmere-v1'>Westmere</model>
    <model usable='no' deprecated='yes' vendor='Intel' canonical='Broadwell-v1'>Broadwell</model>
    <blockers model='Broadwell'><feature name='hle'/><feature name='rtm'/></blockers>
  </mode></cpu></domainCapabilities>"""


class LaterLibvirt:
    def getDomainCapabilities(self, *_arguments):
        return LATER

    def getCPUModelNames(self, _arch):
        return ["Westmere", "Broadwell", "pentiumpro"]

    def getURI(self):
        return "qemu:///system"


def test_a_later_libvirts_blockers_are_what_is_missing():
    able = cpu_models.capabilities(LaterLibvirt(), "x86_64", "kvm")
    assert able.missing == {"Westmere": [], "Broadwell": ["hle", "rtm"]}
    models = cpu_models.models(LaterLibvirt(), "x86_64").set_index("model")
    assert models["kvm"].tolist() == [True, False, False] and models["deprecated"].tolist()[:2] == [False, True]
    assert models.loc["Broadwell", "tcg_missing"] == "hle, rtm" and models.loc["Westmere", "tcg_missing"] == ""
    assert models.loc[["pentiumpro"], "tcg_missing"].isna().all()
    assert "not on this machine" in models.attrs["unavailable"]["versions"]


@pytest.mark.parametrize(
    "arch, nearest", [("x86-64", "Nearest: x86_64"), ("ppc64le", "Nearest: ppc64"), ("mips", "Write one of x86_64"), (None, "None")]
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(arch, nearest):
    with pytest.raises(KvmlabError, match=nearest):
        cpu_models.models(LaterLibvirt(), arch)


class WithoutHostModel(LaterLibvirt):
    def getDomainCapabilities(self, *_arguments):
        return LATER.replace("supported='yes'><model fallback", "supported='no'><model fallback")

    def baselineHypervisorCPU(self, *_arguments):
        return "<cpu><model>Westmere</model><feature name='aes' policy='require'/><feature name='pcid' policy='disable'/></cpu>"


def test_what_only_host_model_could_tell_is_not_said_to_be_possible():
    flags = cpu_models.expand(WithoutHostModel(), "<cpu><model>Westmere</model></cpu>", "tcg")
    assert flags["possible"].isna().tolist() == [True, False] and not flags["possible"][1]
    assert "no host-model" in flags.attrs["unavailable"]["possible"]
