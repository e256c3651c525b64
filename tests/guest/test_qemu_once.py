import os
import time

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import qemu_once


def test_a_qemu_that_is_not_there_is_named_with_its_package():
    with pytest.raises(KvmlabError, match=r"/nowhere/qemu cannot be started: No such file or directory. .*apt install"):
        qemu_once.ask("/nowhere/qemu", "tcg", "query-version")


def test_a_program_that_ends_without_an_answer_is_told():
    with pytest.raises(KvmlabError, match="/bin/true ended without an answer to query-version: it said nothing"):
        qemu_once.ask("/bin/true", "tcg", "query-version")


def test_one_that_hangs_is_ended_and_reaped(tmp_path, monkeypatch):
    program = tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu_once, "_PATIENCE_S", 0.5)
    with pytest.raises(KvmlabError, match=r"did not answer query-version within 0.5 s"):
        qemu_once.ask(str(program), "tcg", "query-version")
    time.sleep(0.05)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
