"""The Labs that a measurement is made in."""

from collections.abc import Iterator

from kvmlab import KvmlabError, Lab


def labs() -> Iterator[Lab]:
    """One after another: with KVM, where it is, and with TCG."""
    for accel in ("kvm", "tcg"):
        try:
            lab = Lab(accel=accel)
        except KvmlabError as error:
            print(error)
            continue
        with lab:
            yield lab
