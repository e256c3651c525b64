import os

from kvmlab.guest import image


def test_a_session_reads_the_packages_own_image():
    assert image.readable("qemu:///session") == (image.IMAGE, None)


def test_an_image_that_others_cannot_reach_is_copied_to_where_they_can(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    hidden = tmp_path / "image.bin"
    hidden.write_bytes(image.IMAGE.read_bytes())
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    orphan = run / "kvmlab-999999999-x"
    orphan.mkdir()
    monkeypatch.setattr(image, "IMAGE", hidden)
    monkeypatch.setattr(image, "_PLACE", run)
    path, folder = image.readable("qemu:///system")
    assert path.read_bytes() == hidden.read_bytes() and path.stat().st_mode & 0o004 and folder.stat().st_mode & 0o005
    assert folder.name.startswith(f"kvmlab-{os.getpid()}-") and not orphan.exists()
