"""libvirt's list of CPU models, read from its files: the machine's own, and small ones made here for what can be wrong with them."""

import re
import subprocess
from pathlib import Path

import pytest

from kvmlab.errors import CpuModelError
from kvmlab.guest import cpumap
from tests.conftest import need

INDEX = "<cpus><arch name='x86'>{}</arch></cpus>"
FEATURES = """<cpus>
  <feature name='sse'><cpuid eax_in='0x01' edx='0x02000000'/></feature>
  <feature name='avx'><alias name='AVX' source='qemu'/><cpuid eax_in='0x01' ecx='0x10000000'/></feature>
  <feature name='invtsc' migratable='no'><cpuid eax_in='0x80000007' edx='0x00000100'/></feature>
  <feature name='mds-no'><msr index='0x10a' edx='0x00000000' eax='0x00000020'/></feature>
  <feature name='pair'><cpuid eax_in='0x07' ecx_in='0x01' eax='0x1' ebx='0x2'/></feature>
</cpus>"""
VENDORS = "<cpus><vendor name='Intel' string='GenuineIntel'/></cpus>"
OLD = """<cpus><model name='Old'><decode host='on' guest='off'/><signature family='6' model='85' stepping='5-7'/>
  <vendor name='Intel'/><feature name='sse'/><feature name='mds-no' removed='yes'/></model></cpus>"""
NEW = "<cpus><model name='New'><decode host='on' guest='on'/><model name='Old'/><feature name='avx'/></model></cpus>"


def made(folder: Path, index: str | None = None, **files: str) -> str:
    """A cpu_map folder; its index includes all files in the order given."""
    files = {"vendors": VENDORS, "features": FEATURES, "old": OLD, "new": NEW} | files
    for name, text in files.items():
        (folder / f"{name}.xml").write_text(text)
    includes = "".join(f"<include filename='{name}.xml'/>" for name in files)
    (folder / "index.xml").write_text(index or INDEX.format(includes))
    return str(folder)


@pytest.fixture
def here():
    need(None if Path(cpumap.FOLDER, "index.xml").exists() else f"{cpumap.FOLDER} is not here")
    return cpumap.load()


def test_a_model_takes_over_what_it_builds_on(tmp_path):
    models = cpumap.load(made(tmp_path)).models("x86_64")
    assert list(models) == ["Old", "New"]
    assert models["New"].features == {"sse", "avx"}
    assert models["New"].own == {"avx"}
    assert (models["New"].parent, models["New"].vendor) == ("Old", "Intel")
    assert models["New"].signatures == models["Old"].signatures == ((6, 85, (5, 6, 7)),)
    assert models["Old"].removed == {"mds-no"} and "mds-no" not in models["Old"].features
    assert not models["Old"].decode_guest and models["New"].decode_guest


def test_a_feature_knows_its_bits(tmp_path):
    features = cpumap.load(made(tmp_path)).features("i686")
    assert features["sse"].places == (("cpuid", 1, 0, "edx", 1 << 25),)
    assert features["mds-no"].places == (("msr", 0x10A, 0, "eax", 1 << 5),)
    assert features["pair"].places == (("cpuid", 7, 1, "eax", 1), ("cpuid", 7, 1, "ebx", 2))
    assert [name for name, feature in features.items() if not feature.migratable] == ["invtsc"]


def test_a_later_libvirt_groups_its_models(tmp_path):
    grouped = INDEX.format(
        "<include filename='vendors.xml'/><include filename='features.xml'/><group name='Intel'><include filename='old.xml'/></group>"
    )
    assert list(cpumap.load(made(tmp_path, grouped)).models()) == ["Old"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"new": "<cpus><model name='New'><quantum/></model></cpus>"}, r"new\.xml has an element <quantum>.* newer libvirt"),
        ({"new": "<cpus><qubit name='New'/></cpus>"}, r"new\.xml has an element <qubit>"),
        ({"new": "<cpus><model name='New'><model name='Older'/></model></cpus>"}, "'New' builds on the model 'Older'"),
        ({"new": "<cpus><model name='New'><feature name='warp'/></model></cpus>"}, "'New' has the feature 'warp'"),
        ({"new": "<cpus><model"}, r"new\.xml is no XML"),
        ({"index": "<cpus><arch name='x86'><loop/></arch></cpus>"}, r"index\.xml has an element <loop>"),
        ({"index": INDEX.format("<include filename='gone.xml'/>")}, r"gone\.xml: No such file or directory.*comes with its daemon"),
    ],
)
def test_what_is_wrong_with_the_files_is_said_with_the_file(tmp_path, files, words):
    with pytest.raises(CpuModelError, match=words):
        cpumap.load(made(tmp_path, **files))


def test_a_missing_folder_says_what_brings_it(tmp_path):
    with pytest.raises(CpuModelError, match=r"/nowhere/index\.xml: No such file .*Debian: libvirt0"):
        cpumap.load(str(tmp_path / "nowhere"))


def test_unknown_models_and_architectures_offer_the_nearest(here):
    with pytest.raises(CpuModelError, match=r"no CPU model 'Westmer' of x86_64\. Nearest: Westmere"):
        here.model("Westmer")
    with pytest.raises(CpuModelError, match="'POWER9' is one of ppc64, not of x86_64"):
        here.model("POWER9")
    with pytest.raises(CpuModelError, match=r"no architecture 'x86-64'\. Nearest: x86_64"):
        here.models("x86-64")


def test_the_machine_s_list_is_whole(here):
    """As many models as the index includes files of them, and for each feature at least one bit."""
    index = Path(cpumap.FOLDER, "index.xml").read_text()
    for arch, prefix in (("x86_64", "x86_"), ("ppc64le", "ppc64_"), ("aarch64", "arm_")):
        files = set(re.findall(rf"filename='({prefix}\w.*?)\.xml'", index)) - {f"{prefix}vendors", f"{prefix}features"}
        assert len(here.models(arch)) == len(files) > 3
    assert all(feature.places for feature in here.features().values())
    assert all(model.pvrs for model in here.models("ppc64").values())
    assert here.models("s390x") == {}


def test_grep_finds_the_same_features(here):
    """Each <feature> that a model's file names is in the model."""
    for name in ("Westmere", "EPYC-Milan", "Skylake-Server"):
        file = Path(cpumap.FOLDER, f"x86_{name}.xml")
        said = subprocess.run(["grep", "-o", "<feature name='[^']*'/>", file], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
        assert {line.split("'")[1] for line in said if line} == here.model(name).own
