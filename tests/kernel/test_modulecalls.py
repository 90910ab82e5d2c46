"""The kernel's log, as far as it is ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perfxmm.kernel.modulecalls import KernelLog, LinuxModuleCalls


def test_lines_after_the_start_only(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,1,1,-;xsaves_nmi: from before\n")
    found = KernelLog(log)
    with log.open("a") as file:
        file.write("3,2,2,-;xsaves_nmi: hz=0: say 1 to 10000\n SUBSYSTEM=none\n")
    assert found.lines("xsaves_nmi") == ["hz=0: say 1 to 10000"]
    assert found.lines("xsaves_nmi") == []


def test_what_others_say_is_not_ours(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("")
    found = KernelLog(log)
    log.write_text("6,1,1,-;usb 1-1: xsaves_nmi: not ours\n")
    assert found.lines("xsaves_nmi") == []


def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    assert KernelLog(tmp_path / "none").lines("xsaves_nmi") == []


def test_what_is_not_loaded_cannot_be_unloaded() -> None:
    # ENOENT with CAP_SYS_MODULE, EPERM without, ENOSYS where the kernel has no modules.
    with pytest.raises(OSError, match=r"No such file|not permitted|not implemented") as caught:
        LinuxModuleCalls().delete_module("perfxmm_no_such_module")
    assert caught.value.filename == "delete_module"
    assert os.strerror(caught.value.errno) in str(caught.value)
