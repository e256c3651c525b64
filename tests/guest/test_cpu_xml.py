import xml.etree.ElementTree as ET

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from kvmlab import KvmlabError
from kvmlab.guest.cpu_xml import CHECKS, FALLBACKS, MATCHES, MODES, check_names, cpu_xml, given

MODELS = {"x86_64": ["qemu64", "Westmere", "Westmere-IBRS", "Nehalem"], "ppc64": ["POWER8", "POWER9"], "aarch64": []}
FLAGS = ["pclmuldq", "sse4.1", "sse4.2", "vmx"]

GOLDEN = [
    (("Westmere", "exact", "allow"), "<cpu mode='custom' match='exact'><model fallback='allow'>Westmere</model></cpu>"),
    (("Westmere",), "<cpu mode='custom' match='exact'><model>Westmere</model></cpu>"),
    (
        ("EPYC-Rome", "strict", "forbid", "full"),
        "<cpu mode='custom' match='strict' check='full'><model fallback='forbid'>EPYC-Rome</model></cpu>",
    ),
    (
        ("qemu64", None, None, None, ["sse4.1", "vmx"], ["svm"]),
        "<cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='sse4.1'/>"
        "<feature policy='require' name='vmx'/><feature policy='disable' name='svm'/></cpu>",
    ),
    (("host-passthrough",), "<cpu mode='host-passthrough'/>"),
    (("host-model", None, None, "full"), "<cpu mode='host-model' check='full'/>"),
    (("maximum", None, None, None, [], ["la57"]), "<cpu mode='maximum'><feature policy='disable' name='la57'/></cpu>"),
]


@pytest.mark.parametrize("arguments, text", GOLDEN)
def test_the_cpu_element_is_the_golden_one(arguments, text):
    assert cpu_xml(*arguments) == text


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"match": "at-least"}, "match='at-least' of CPU model 'Westmere': write minimum, exact or strict"),
        ({"match": ""}, "match=''"),
        ({"fallback": "yes"}, "fallback='yes' of CPU model 'Westmere': write allow or forbid"),
        ({"check": True}, "check=True of CPU model 'Westmere': write none, partial or full"),
        ({"add": "vmx"}, r"add='vmx': write a list of flags, \['vmx'\]"),
        ({"add": ["vmx"], "remove": ["vmx"]}, "flag 'vmx' is to be added and removed"),
        ({"add": ["a b"]}, "CPU flag 'a b': write a name"),
        ({"add": [7]}, "CPU flag 7: write a name"),
    ],
)
def test_a_word_that_libvirt_does_not_have_is_refused_with_those_that_it_has(arguments, words):
    with pytest.raises(KvmlabError, match=words):
        cpu_xml("Westmere", **arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", [{"match": "exact"}, {"fallback": "allow"}])
def test_what_is_for_named_models_only_is_refused_elsewhere(mode, arguments):
    with pytest.raises(KvmlabError, match=f"has no meaning with {mode}"):
        cpu_xml(mode, **arguments)


@hypothesis_given(
    st.text(min_size=1, max_size=30),
    st.sampled_from([None, *MATCHES]),
    st.sampled_from([None, *CHECKS]),
    st.sampled_from([None, *FALLBACKS]),
    st.lists(st.text(max_size=10), max_size=3),
)
def test_a_name_is_refused_or_comes_out_of_the_xml_as_it_went_in(model, match, check, fallback, flags):
    try:
        text = cpu_xml(model, match, fallback, check, add=flags)
    except KvmlabError:
        return
    element = ET.fromstring(text)
    assert (element.findtext("model"), element.get("check")) == (model, check)
    assert [feature.get("name") for feature in element.findall("feature")] == list(dict.fromkeys(flags))


@hypothesis_given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", fullmatch=True).filter(lambda name: name not in MODES))
def test_every_name_of_the_kind_that_libvirt_has_is_taken(name):
    assert ET.fromstring(cpu_xml(name)).findtext("model") == name


def test_a_name_a_mode_and_xml_are_all_understood():
    assert given("Westmere") == cpu_xml("Westmere") and given("host-model") == "<cpu mode='host-model'/>"
    assert given(" <cpu><topology sockets='1' cores='2' threads='1'/></cpu>").startswith(" <cpu>")


@pytest.mark.parametrize(
    "cpu, words",
    [("<cpu>", "is no XML"), ("<domain/>", "begins with <cpu>, not with <domain>"), ("", "CPU model ''"), (None, "CPU model None")],
)
def test_what_is_no_cpu_element_is_refused(cpu, words):
    with pytest.raises(KvmlabError, match=words):
        given(cpu)


def test_names_that_libvirt_knows_pass():
    check_names(cpu_xml("Westmere", add=["sse4.1"], remove=["vmx"]), "x86_64", MODELS, FLAGS)
    check_names(cpu_xml("host-model"), "x86_64", MODELS, FLAGS)
    check_names(cpu_xml("cortex-a57"), "aarch64", MODELS, ())  # of which libvirt has no list


@pytest.mark.parametrize(
    "cpu, arch, words",
    [
        (cpu_xml("westmere"), "x86_64", r"There is no CPU model 'westmere' of x86_64\. Nearest: Westmere, "),
        (cpu_xml("Nope"), "x86_64", r"There is no CPU model 'Nope' of x86_64\. All: virsh cpu-models x86_64"),
        (cpu_xml("max"), "x86_64", r"There is no CPU model 'max' of x86_64\. Nearest: maximum\."),
        (cpu_xml("host"), "x86_64", r"Nearest: host-model, host-passthrough\."),
        (cpu_xml("POWER8"), "x86_64", "CPU model 'POWER8' is one of ppc64; this guest is x86_64"),
        (cpu_xml("Westmere"), "ppc64", "CPU model 'Westmere' is one of x86_64; this guest is ppc64"),
        (cpu_xml("qemu64", add=["sse4_1"]), "x86_64", r"There is no CPU flag 'sse4_1' .*Nearest: sse4\.1"),
        (cpu_xml("qemu64", remove=["pclmulqdq"]), "x86_64", r"There is no CPU flag 'pclmulqdq' .*Nearest: pclmuldq"),
    ],
)
def test_a_name_that_libvirt_does_not_know_is_refused_with_the_nearest(cpu, arch, words):
    with pytest.raises(KvmlabError, match=words):
        check_names(cpu, arch, MODELS, FLAGS)
