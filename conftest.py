"""What tests and notebooks share under pytest: a progress file of their own, so that a reader's stays as it is."""

import os
import tempfile


def pytest_configure(config) -> None:
    folder = tempfile.TemporaryDirectory(prefix="kvmlab-course-")
    config.add_cleanup(folder.cleanup)
    os.environ["KVMLAB_COURSE"] = f"{folder.name}/course.json"  # the notebooks' kernels have it too
