"""CPU flags from CPUID, against libvirt's own table of features, the program cpuid(1) and the /proc/cpuinfo of Linux guests."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.columns import frame
from kvmlab.guest import cpuid_flags, flag_names
from kvmlab.host import flags as host_flags
from tests.conftest import need
from tests.guest import cpuid_dumps

LIBVIRT = Path("/usr/share/libvirt/cpu_map/x86_features.xml")
REGISTERS = ("eax", "ebx", "ecx", "edx")

# What Linux 6.1 shows beyond the bits: what it works out by vendor (3dnowprefetch, vmmcall, extd_apicid), by family (ssbd, constant_tsc) or
# by trial (nopl), what it does itself (pti), and ospke, a bit that is only set once the kernel has turned the feature on.
WORKED_OUT = {"rep_good", "nopl", "cpuid", "constant_tsc", "xtopology", "extd_apicid", "pti", "vmmcall", "3dnowprefetch", "ssbd", "ospke"}
# Of the flags that kernels know: what they work out, other vendors' leaves, names of the past.
NO_BIT = """
amd_dcm apicv arch_perfmon art bts centaur_mcr cpuid cpuid_fault cxmmx cyrix_arr eagerfpu extd_apicid flexpriority ibpb_exit_to_user
intel_stibp invpcid_single k6_mtrr kaiser longrun lrti nonstop_tsc_s3 nopl pebs pti recovery rep_good retpoline retpoline_amd ring3mwait
rsb_ctxsw spec_ctrl tdx_guest tdx_host_platform tsc_known_freq tsc_reliable up user_shstk vmmcall xtopology
"""
LIBVIRT_TAKES_AWAY = {"EPYC-2x1x2x2": {"monitor"}, "EPYC-Rome-2x1x3x2": {"monitor"}, "Opteron_G3-2x1x2x2": {"monitor"}}

# A word of cpuid's line for the bits that it does not call by the kernel's or libvirt's name.
CPUID_SAYS = """
pclmulqdq: PCLMULDQ; dts: debug store; cqm: RDT-CMT; cx8: CMPXCHG8B; sep: SYSENTER; pge: PTE global; pn: PSN; fxsr: FXSAVE; ht:
hyper-threading; mp: multiprocessing; nx: no-execute; mmxext: AMD multimedia; pdpe1gb: 1-GB; lm: long mode; 3dnowext: 3DNow! instr;
ds_cpl: CPL-qualified; est: SpeedStep; cid: context ID; cx16: CMPXCHG16B; tsc_deadline_timer: deadline; osxsave: OS-enabled XSAVE;
lahf_lm: LAHF; extapic: extended APIC; cr8_legacy: AltMovCr8; abm: LZCNT; misalignsse: misaligned SSE; osvw: OS visible; ibs:
instruction based; wdt: watchdog; lwp: lightweight; fma4: 4-operand; topoext: topology ext; perfctr_core: core performance; perfctr_nb:
NB/DF; bpext: data breakpoint; ptsc: performance time-stamp; perfctr_llc: LLC; erms: enhanced REP; zero-fcs-fds: deprecated FPU CS;
rdt_a: RDT-CAT; intel_pt: processor trace; sha_ni: SHA; xgetbv1: XGETBV; fzrm: zero-length MOVSB; fsrs: STOSB; fsrc: CMPSB; irperf:
instructions retired; xsaveerptr: error pointers; mba: memory bandwidth; amd_ppin: ppin; amd-no-ssb: SSBD fixed; amd-psfd: predictive
store; brs: branch sampling; dtherm: thermometer; ida: Turbo Boost; pts: package thermal; hwp_notify: HWP notification; hwp_act_window:
HWP activity; hwp_epp: HWP energy; hwp_pkg_req: HWP package; hfi: HW_FEEDBACK; npt: nested paging; tsc_scale: TSC rate; pausefilter:
pause intercept filter; pfthreshold: pause filter threshold; v_vmsave_vmload: virtualized VMLOAD; vgif: global interrupt flag;
v_spec_ctrl: guest Spec_ctl; svme-addr-chk: SVME addr; smca: scalable MCA; fsrm: short REP MOV; arch_lbr: last branch records;
flush_l1d: L1D_FLUSH; core-capability: CORE_CAPABILITIES; debug_swap: debug state swap; no-nested-data-bp: nested data-breakpoints;
null-sel-clr-base: null selector; ibrs_enhanced: automatic IBRS; aperfmperf: coordination feedback; epb: energy bias; intel_ppin: PPIN;
prefetchiti: PREFETCHIT0; intel-psfd: PSFD; cqm_occup_llc: L3 occupancy; cqm_mbm_total: total bandwidth; cqm_mbm_local: local bandwidth;
cdp_l3: code and data; cdp_l2: code and data; sgx-exinfo: EXINFO; sgx-debug: debugger; sgx-mode64: 64-bit mode; sgx-provisionkey:
provisioning; sgx-tokenkey: EINIT token; sgx-kss: KSS; intel-pt-lip: LIP; hw_pstate: P-State control; nonstop_tsc: TscInvariant;
proc_feedback: processor feedback; acc_power: power reporting; perfmon_v2: monitoring V2; amd_lbr_pmc_freeze: PMC freezing
"""
CPUID_LACKS = {"cvt16", "fred", "lkgs", "sbpb", "ibpb-brtype", "srso-no", "amx-complex"}  # newer or older than its release of 2023
CPUID_DIFFERS = {"fxsr_opt"}  # it has "SSE extensions" there; APM volume 3: FFXSR
NO_LINE = {"cqm_llc", "cat_l3", "cat_l2"}  # of these it only prints the subleaf


def _bits(features):
    return {(f.leaf, f.number, f.register, f.bit): f.libvirt for f in features if f.libvirt}


def test_no_feature_that_libvirt_knows_is_missing_or_called_otherwise():
    need(None if LIBVIRT.exists() else "no libvirt with its CPU map")
    ours, theirs = _bits(flag_names.features()), {}
    for feature in ET.parse(LIBVIRT).getroot().iter("feature"):
        for source in (*feature.findall("cpuid"), *feature.findall("msr")):
            leaf = source.get("eax_in")
            for register in REGISTERS:
                if mask := int(source.get(register, "0"), 16):
                    number = source.get("ecx_in", "0") if leaf else source.get("index")
                    theirs[leaf and int(leaf, 16), int(number, 16), register, mask.bit_length() - 1] = feature.get("name")
    assert len(theirs) >= 200
    assert {place: name for place, name in theirs.items() if ours.get(place) != name} == {}


def test_each_bit_stands_once_and_each_name_of_libvirt_too():
    places = Counter((f.leaf, f.number, f.register, f.bit) for f in flag_names.features())
    names = Counter(f.libvirt for f in flag_names.features() if f.libvirt)
    assert max(places.values()) == max(names.values()) == 1


def test_every_flag_is_known_to_the_hosts_side_and_of_its_flags_only_those_that_no_bit_brings_are_missing():
    shown = {flag for feature in flag_names.features() for flag in feature.flags}
    known = {flag for section, flag in host_flags._table() if section == "x86"}
    assert shown <= known and known - shown == set(NO_BIT.split())


def _with_bit(feature) -> tuple[dict, dict]:
    """A CPU with no feature, of the vendor that has this one, and the same with it."""
    amd = feature.leaf >= 0x80000000
    name = b"AuthenticAMD" if amd else b"GenuineIntel"
    ebx, edx, ecx = (int.from_bytes(name[n : n + 4], "little") for n in (0, 4, 8))
    bare = dict.fromkeys([(n, 0) for n in range(0x21)] + [(0x80000000 + n, 0) for n in range(0x27)], (0, 0, 0, 0))
    bare |= {(0, 0): (0x20, ebx, ecx, edx), (0x80000000, 0): (0x80000026, ebx, ecx, edx), (1, 0): (0x800F12 if amd else 0x806A0, 0, 0, 0)}
    bare |= {(7, 0): (2, 4 if feature.leaf == 0x12 else 0, 0, 0), (0xF, 0): (0, 0, 0, 2), (0x10, 0): (0, 6, 0, 0)}
    bare |= {place: (0, 0, 0, 0) for place in ((7, 1), (7, 2), (0xD, 1), (0xF, 1), (0x10, 1), (0x10, 2), (0x12, 1))}
    answer = list(bare[feature.leaf, feature.number])
    answer[REGISTERS.index(feature.register)] |= 1 << feature.bit
    return bare, bare | {(feature.leaf, feature.number): tuple(answer)}


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def test_the_program_cpuid_calls_each_bit_the_same(tmp_path):
    need(None if shutil.which("cpuid") else "no program cpuid")
    features = [f for f in flag_names.features() if f.leaf is not None and f.leaf < 0xC0000000]
    cpus = [cpu for feature in features for cpu in _with_bit(feature)]
    (tmp_path / "raw").write_text(cpuid_dumps.text(dict(enumerate(cpus))))
    said = subprocess.run(["cpuid", "-f", tmp_path / "raw"], capture_output=True, text=True, check=True).stdout
    blocks = [Counter(block.splitlines()) for block in re.split(r"^CPU \d+:\n", said, flags=re.M)[1:]]
    words = {name.strip(): word for name, _, word in (entry.partition(":") for entry in CPUID_SAYS.replace("\n", " ").split(";"))}
    wrong = {}
    for n, feature in enumerate(features):
        new = blocks[2 * n + 1] - blocks[2 * n]
        lines = _plain(" ".join(line for line in new if "synth" not in line))
        names = [*feature.flags, feature.libvirt or "-"]
        known = [_plain(words.get(name, name)) for name in feature.flags or names]
        if not any(name in lines for name in known) and not CPUID_LACKS.union(CPUID_DIFFERS, NO_LINE).intersection(names):
            wrong[feature] = new
    assert len(features) > 250 and wrong == {}


@pytest.mark.parametrize("name", cpuid_dumps.RECORDED)
def test_linux_shows_the_same_flags_and_those_it_works_out(name):
    said = (cpuid_dumps.FOLDER / f"{name}.linux.txt").read_text().splitlines()[0].split(": ")[1].split()
    ours = cpuid_flags.flags(cpuid_dumps.load(name)[0])
    assert set(ours) <= set(said)
    assert set(said) - set(ours) <= WORKED_OUT | LIBVIRT_TAKES_AWAY.get(name, set())
    assert [flag for flag in said if flag in ours] == [flag for flag in ours if flag in said]  # in the kernel's order


def test_the_rows_are_those_of_a_hosts_flags_with_vcpus_for_cpus():
    leaves = cpuid_dumps.load("Westmere-2x1x2x2")
    poorer = leaves[1] | {(1, 0): (*leaves[1][1, 0][:2], 0, leaves[1][1, 0][3])}
    table = frame(cpuid_flags.rows({0: leaves[0], 1: poorer}), "flags").set_index("flag")
    assert table.loc["sse4_1"].tolist()[:2] == ["0", "simd"] and table.loc["sse2", "cpus"] == "0-1"
    assert not table["meaning"].isna().any()


def test_what_the_kernel_hides_is_known_by_libvirts_name():
    leaves = {(7, 0): (0, 1 << 22, 0, 1 << 26), (0x80000001, 0): (0, 0, 1 << 18, 0)}
    assert cpuid_flags.libvirt_features(leaves) == {"pcommit", "spec-ctrl", "cvt16"}
    assert cpuid_flags.flags(leaves) == ["ibrs", "ibpb"]
    assert flag_names.shown_as("pcommit") == () and flag_names.shown_as("vmx-ept") == ("ept",)


def test_names_are_only_translated_where_they_say_the_same():
    pairs = {"pclmuldq": "pclmulqdq", "sse4.2": "sse4_2", "ds": "dts", "cmt": "cqm", "invtsc": "nonstop_tsc", "sha-ni": "sha_ni"}
    assert {name: flag_names.kernel_name(name) for name in pairs} == pairs
    assert {flag_names.libvirt_name(flag): flag for flag in pairs.values()} == pairs
    for flag in ("ibrs", "ibpb", "stibp", "ssbd", "no-such-flag"):
        assert flag_names.libvirt_name(flag) is None
    for name in ("spec-ctrl", "rdctl-no", "pcommit", "no-such-feature"):
        assert flag_names.kernel_name(name) is None


def test_a_line_of_flags_proves_features_by_vendor():
    flags = {"ibrs", "ibpb", "stibp", "ssbd", "sse2"}
    assert flag_names.proven(flags, "GenuineIntel") == {"spec-ctrl", "stibp", "ssbd", "sse2"}
    assert flag_names.proven(flags, "AuthenticAMD") == {"ibrs", "ibpb", "amd-stibp", "amd-ssbd", "sse2"}
    assert flag_names.proven({"ssbd", "virt_ssbd"}, "AuthenticAMD") == {"virt-ssbd"}  # says nothing of amd-ssbd


@given(st.sets(st.sampled_from([f for f in flag_names.features() if f.leaf is not None])))
def test_what_a_line_of_flags_proves_is_in_the_bits_it_was_made_from(features):
    leaves: dict = {}
    for feature in features:
        answer = list(leaves.get((feature.leaf, feature.number), (0, 0, 0, 0)))
        answer[REGISTERS.index(feature.register)] |= 1 << feature.bit
        leaves[feature.leaf, feature.number] = tuple(answer)
    told = cpuid_flags.libvirt_features(leaves)
    assert told == {f.libvirt for f in features if f.libvirt}
    ambiguous = {f.libvirt for f in flag_names.features() if f.flags and not flag_names.kernel_name(f.libvirt or "")}
    assert flag_names.proven(cpuid_flags.flags(leaves), "GenuineIntel") - ambiguous <= told
    assert {name for name in told if flag_names.kernel_name(name)} <= {
        *flag_names.proven(cpuid_flags.flags(leaves), "GenuineIntel")
    } | ambiguous
