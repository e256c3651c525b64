"""libvirt's <cpu> element, from names. Pure: no libvirt, no files; which names there are, the caller says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from kvmlab.errors import GuestError

MODES = ("host-passthrough", "host-model", "maximum")
MATCHES = ("minimum", "exact", "strict")
CHECKS = ("none", "partial", "full")
FALLBACKS = ("allow", "forbid")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)


def cpu_xml(
    model: str,
    match: str | None = None,
    fallback: str | None = None,
    check: str | None = None,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> str:
    """What to write into a domain for a CPU model: libvirt's <cpu> element.

    ``Lab.cpu_xml`` says what each is; here names are not looked up.

    Examples
    --------
    >>> cpu_xml("Westmere", match="exact", fallback="allow")
    "<cpu mode='custom' match='exact'><model fallback='allow'>Westmere</model></cpu>"
    >>> cpu_xml("host-passthrough", remove=["vmx"])
    "<cpu mode='host-passthrough'><feature policy='disable' name='vmx'/></cpu>"
    """
    _check_name("CPU model", model)
    for what, value, legal in (("match", match, MATCHES), ("fallback", fallback, FALLBACKS), ("check", check, CHECKS)):
        if value is not None and value not in legal:
            raise GuestError(f"{what}={value!r} of CPU model {model!r}: write {', '.join(legal[:-1])} or {legal[-1]}, or leave it out.")
    _check_mode(model, match, fallback)
    features = _features(model, add, remove)
    if model in MODES:
        return _element({"mode": model, "check": check}, features)
    name = f"<model{_attributes({'fallback': fallback})}>{model}</model>"
    return _element({"mode": "custom", "match": match or "exact", "check": check}, name + features)


def _check_mode(model: str, match: str | None, fallback: str | None) -> None:
    """libvirt takes match for named models only, and ignores a fallback where no model is written."""
    if model in MODES and (match or fallback):
        name = "match" if match else "fallback"
        raise GuestError(f"{name}={match or fallback!r} has no meaning with {model}: it is for a named model. Leave it out.")


def _features(model: str, add: Iterable[str], remove: Iterable[str]) -> str:
    added, removed = _names("add", add), _names("remove", remove)
    if both := sorted(set(added) & set(removed)):
        raise GuestError(f"CPU model {model!r}: flag {both[0]!r} is to be added and removed. Name it once.")
    policies = [("require", flag) for flag in added] + [("disable", flag) for flag in removed]
    return "".join(f"<feature policy='{policy}' name='{flag}'/>" for policy, flag in policies)


def _names(what: str, flags: Iterable[str]) -> list[str]:
    if isinstance(flags, str):
        raise GuestError(f"{what}={flags!r}: write a list of flags, [{flags!r}].")
    flags = list(flags)
    for flag in flags:
        _check_name("CPU flag", flag)
    return list(dict.fromkeys(flags))


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise GuestError(f"{what} {name!r}: write a name of letters, digits, dots, dashes and underscores, such as Westmere or ssse3.")


def _element(attributes: Mapping[str, str | None], inside: str) -> str:
    return f"<cpu{_attributes(attributes)}>{inside}</cpu>" if inside else f"<cpu{_attributes(attributes)}/>"


def _attributes(attributes: Mapping[str, str | None]) -> str:
    return "".join(f" {name}='{value}'" for name, value in attributes.items() if value)


def given(cpu: str) -> str:
    """The <cpu> element of what a user wrote: the name of a model or a mode, or the element itself.

    Raises
    ------
    GuestError
        For a name that can be none, and for XML that is malformed or something else than <cpu>.
    """
    if not isinstance(cpu, str) or not cpu.lstrip().startswith("<"):
        return cpu_xml(cpu)
    try:
        element = ET.fromstring(cpu)
    except ET.ParseError as error:
        raise GuestError(f"The <cpu> element is no XML: {error}. cpu_xml('Westmere') writes one.") from error
    if element.tag != "cpu":
        raise GuestError(f"The XML of a CPU begins with <cpu>, not with <{element.tag}>. cpu_xml('Westmere') writes one.")
    return cpu


def check_names(cpu: str, arch: str, models: Mapping[str, Iterable[str]], flags: Iterable[str]) -> None:
    """Raise for a model or flag that libvirt will not know, with the nearest that it does.

    Parameters
    ----------
    cpu : str
        A <cpu> element.
    arch : str
        The guest's architecture.
    models : mapping
        Architecture to the names of its models. One that has none is not checked: libvirt knows no list of it.
    flags : names
        The flags of `arch`; none: not checked.

    Raises
    ------
    GuestError
        For an unknown model, one of another architecture, and a flag that does not exist.
    """
    element = ET.fromstring(cpu)
    model = element.findtext("model")
    known = set(models.get(arch, ()))
    if model and known and model not in known:
        elsewhere = sorted(other for other, names in models.items() if model in set(names))
        if elsewhere:
            raise GuestError(f"CPU model '{model}' is one of {', '.join(elsewhere)}; this guest is {arch}.")
        raise GuestError(f"There is no CPU model '{model}' of {arch}.{nearest(model, known.union(MODES))} All: virsh cpu-models {arch}.")
    there = set(flags)
    for name in [feature.get("name") for feature in element.findall("feature")]:
        if there and name not in there:
            raise GuestError(f"There is no CPU flag '{name}' of {arch} by that name in libvirt.{nearest(name, there)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that offers the nearest names; nothing where none is near."""
    by_lower = {other.lower(): other for other in sorted(known)}
    close = get_close_matches(name.lower(), by_lower, n=3)
    longer = [other for other in by_lower if name and other.startswith(name.lower())]
    near = list(dict.fromkeys(close + longer))[:3]
    return f" Nearest: {', '.join(by_lower[other] for other in near)}." if near else ""
