"""Loading and unloading: what the kernel is told, and what its answers mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.fake_module import RELEASE, module_bytes
from support.fake_root import ALL_CAPS, NO_CAPS, make_root

from perfxmm.errors import NotSupported, PerfxmmError, UsageError
from perfxmm.kernel.situation import survey
from perfxmm.sources.kmodule.loading import (
    Parameters,
    Surroundings,
    load,
    read_surroundings,
    unload,
)


class FakeCalls:
    def __init__(self, number: int = 0) -> None:
        self.said: list[tuple[str, str]] = []
        self._number = number

    def finit_module(self, fd: int, parameters: str) -> None:
        self.said.append((os.pread(fd, 4, 0).decode(), parameters))
        self._answer()

    def delete_module(self, name: str) -> None:
        self.said.append(("delete", name))
        self._answer()

    def _answer(self) -> None:
        if self._number:
            raise OSError(self._number, os.strerror(self._number))


class FakeLog:
    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def lines(self, subject: str) -> list[str]:
        assert subject == "xsaves_nmi"
        return self._lines


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "xsaves_nmi.ko"
    file.write_bytes(module_bytes())
    file.chmod(0o644)
    return file


def _around(tmp_path: Path, *, disabled: str = "0", release: str = RELEASE, **root: object):
    base = make_root(tmp_path / "root", **{"caps": ALL_CAPS, **root})  # type: ignore[arg-type]
    (base / "proc/sys/kernel/modules_disabled").write_text(f"{disabled}\n")
    return read_surroundings(survey(base, uid=0), release, base)


def _refused(file: Path, number: int, around: Surroundings, *said: str) -> PerfxmmError:
    with pytest.raises(PerfxmmError) as caught:
        load(file, Parameters(), FakeCalls(number), around, lambda: FakeLog(*said))
    return caught.value


def test_parameters_as_the_kernel_takes_them() -> None:
    assert Parameters().text() == ""
    assert Parameters("ipi", 500, None, 0xE6, "xsavec", True, True).text() == (
        "nmi=ipi hz=500 mask=0xe6 instruction=xsavec ssp=1 kernel_hits=1"
    )
    assert Parameters("pmu", period=200_000).text() == "nmi=pmu period=200000"
    with pytest.raises(UsageError, match="--nmi 'irq' is not known"):
        Parameters("irq").text()
    with pytest.raises(UsageError, match="--instruction 'fxsave' is not known"):
        Parameters(instruction="fxsave").text()


def test_loading_hands_over_the_file_and_the_parameters(tmp_path: Path, module: Path) -> None:
    calls = FakeCalls()
    load(module, Parameters("ipi"), calls, _around(tmp_path), FakeLog)
    assert calls.said == [("\x7fELF", "nmi=ipi")]


def test_files_that_are_not_loaded(tmp_path: Path, module: Path) -> None:
    calls, around = FakeCalls(), _around(tmp_path)
    module.chmod(0o664)
    with pytest.raises(UsageError, match="can be written by others"):
        load(module, Parameters(), calls, around, FakeLog)
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.ko", Parameters(), calls, around, FakeLog)
    packed = module.with_suffix(".ko.zst")
    with pytest.raises(NotSupported) as caught:
        load(packed, Parameters("ipi"), calls, around, FakeLog)
    assert caught.value.next_step == "modprobe xsaves_nmi nmi=ipi"
    assert calls.said == []


@pytest.mark.parametrize(
    ("number", "where", "code", "why", "step"),
    [
        (errno.EPERM, {"caps": NO_CAPS}, 3, "loading a module needs CAP_SYS_MODULE",
         "sudo perfxmm module load"),
        (errno.EPERM, {"disabled": "1"}, 3, "kernel.modules_disabled is 1", ""),
        (errno.EPERM, {"container": ".dockerenv"}, 3, "not in a container", "on the host"),
        (errno.EPERM, {"lockdown": "none [integrity] confidentiality"}, 3,
         "lockdown is integrity: only modules signed", "perfxmm module sign-help"),
        (errno.EKEYREJECTED, {}, 3, "signatures are enforced: only modules signed",
         "perfxmm module sign-help"),
        (errno.ENOKEY, {}, 3, "signatures are enforced", "perfxmm module sign-help"),
        (errno.EEXIST, {}, 1, "it is loaded already", "perfxmm module unload first"),
        (errno.ENODEV, {}, 4, "what should send the NMIs is not here", "--nmi ipi"),
        (errno.EBUSY, {}, 4, "KVM is in use", "modprobe -r kvm_intel"),
        (errno.EOPNOTSUPP, {}, 4, "does not have what was asked for", "dmesg | grep xsaves_nmi"),
        (errno.EINVAL, {}, 2, "a parameter is not one that it takes", "dmesg | grep xsaves_nmi"),
        (errno.ENOSYS, {}, 4, "this kernel has no loadable modules", ""),
        (errno.ENOEXEC, {"release": "6.1.0-51-amd64"}, 4,
         f"it was built for kernel {RELEASE}, and 6.1.0-51-amd64 is running",
         "perfxmm module build"),
        (errno.ENOENT, {}, 4, "configured differently (vermagic "
         f"'{RELEASE} SMP preempt mod_unload modversions')", "perfxmm module build"),
        (errno.ENOMEM, {}, 1, "no reason that perfxmm knows", ""),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, module: Path, number: int, where: dict[str, str], code: int, why: str, step: str
) -> None:
    error = _refused(module, number, _around(tmp_path, **where))
    assert error.what == "cannot load the module"
    assert error.exit_code == code
    assert why in error.why
    assert step in error.next_step
    assert (error.next_step == "") == (step == "")
    if number != errno.EINVAL:
        assert f"finit_module: {errno.errorcode[number]}" in str(error).replace(
            "EOPNOTSUPP", errno.errorcode[errno.EOPNOTSUPP]
        )


def test_the_kernels_own_words_come_first(tmp_path: Path, module: Path) -> None:
    error = _refused(module, errno.EINVAL, _around(tmp_path), "hz=0: say 1 to 10000")
    assert error.why == "hz=0: say 1 to 10000"
    assert error.next_step == "perfxmm module --help"


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ENOENT, 1, "it is not loaded"),
        (errno.EAGAIN, 1, "somebody records from it\nend the recordings first"),
        (errno.EPERM, 3, "unloading needs CAP_SYS_MODULE\nsudo perfxmm module unload"),
        (errno.ENOSYS, 4, "this kernel has no loadable modules"),
    ],
)
def test_unloading(tmp_path: Path, number: int, code: int, text: str) -> None:
    calls = FakeCalls()
    unload(calls, _around(tmp_path))
    assert calls.said == [("delete", "xsaves_nmi")]
    with pytest.raises(PerfxmmError) as caught:
        unload(FakeCalls(number), _around(tmp_path))
    assert caught.value.exit_code == code
    assert f"cannot unload the module (delete_module: {errno.errorcode[number]}): {text}" in str(
        caught.value
    )


def test_a_disabled_door_stays_shut(tmp_path: Path) -> None:
    with pytest.raises(PerfxmmError, match=r"kernel\.modules_disabled is 1"):
        unload(FakeCalls(errno.EPERM), _around(tmp_path, disabled="1"))
