"""Guests: libvirt and QEMU. The only part of kvmlab that imports libvirt."""
