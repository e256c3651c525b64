"""One Linux machine as frames. Imports neither libvirt nor anything that draws."""
