"""The lab's own bare-metal guest: image.s (source and memory map), image.bin (built from it), page.py (the host's side)."""
