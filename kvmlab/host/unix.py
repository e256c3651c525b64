"""Python's Unix modules where there are any: recordings are read on every system, and only a live Linux machine is asked with these."""

try:
    import fcntl
    import grp
    import pwd
except ImportError:  # Windows
    fcntl = grp = pwd = None

__all__ = ["fcntl", "grp", "pwd"]
