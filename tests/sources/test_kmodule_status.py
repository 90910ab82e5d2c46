"""What the loaded module says, how far a build is, and what a signature takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.fake_module import (
    RELEASE,
    STATS,
    module_bytes,
    write_headers,
    write_module_sysfs,
    write_os_release,
)
from support.fake_root import make_root

from perfxmm.kernel.situation import survey
from perfxmm.sources.kmodule.signing import read_signing, steps
from perfxmm.sources.kmodule.state import read_state
from perfxmm.sources.kmodule.status import Component, parse_components, read_status


def test_every_file_of_sysfs(tmp_path: Path) -> None:
    base = write_module_sysfs(tmp_path)
    (base / "stats/bypassed").write_text("3\n")
    found = read_status(tmp_path)
    assert found is not None
    # As the module lists them, and after them what this release does not know.
    assert list(found.stats.items()) == [*STATS.items(), ("bypassed", 3)]
    assert (found.version, found.nmi, found.instruction) == ("1.0", "ipi", "xsaves")
    assert (found.hz, found.period, found.length_bytes, found.listeners) == (999, 0, 2448, 2)
    assert (found.rfbm, found.xcr0) == (0x8E6, 0x2E7)
    assert (found.running, found.ssp, found.kernel_hits) == (True, True, False)
    assert found.components == (
        Component(0, 160, 0, 1), Component(1, 256, 160, 1), Component(2, 256, 576, 1),
        Component(5, 64, 1088, 1), Component(6, 512, 1152, 1), Component(7, 1024, 1664, 1),
        Component(11, 16, 0, 1),
    )  # fmt: skip
    assert found.to_dict()["rfbm"] == "0x8e6"


def test_what_an_older_module_does_not_say_is_not_known(tmp_path: Path) -> None:
    write_module_sysfs(tmp_path, without=("hz", "rfbm", "length", "components", "ssp"))
    found = read_status(tmp_path)
    assert found is not None
    assert (found.hz, found.rfbm, found.length_bytes, found.components) == (None, None, None, ())
    assert found.ssp is False
    assert found.to_dict()["rfbm"] is None


def test_not_loaded(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None


def test_the_order_is_the_modules_own() -> None:
    from perfxmm.sources.kmodule.place import SOURCES
    from perfxmm.sources.kmodule.status import _STATS

    body = (SOURCES / "xsaves_nmi.h").read_text().partition("struct xsaves_nmi_stats {")[2]
    fields = re.findall(r"^\tu64 (\w+);", body.partition("};")[0], re.MULTILINE)
    assert list(_STATS) == fields


def test_lines_of_the_table_that_say_something_else() -> None:
    assert parse_components("") == ()
    text = "nr size offset alignment\n2 256 576\n-1 1 1 1\n2 256 576 64 new\n"
    assert parse_components(text) == (Component(2, 256, 576, 64),)


def _state(root: Path, *programs: str):
    return read_state(root, RELEASE, environment={"HOME": str(root)},
                      which=lambda program: program if program in programs else None)  # fmt: skip


def test_from_nothing_to_loaded(tmp_path: Path) -> None:
    write_os_release(tmp_path, "debian")
    missing = _state(tmp_path, "make", "gcc-12")
    assert (missing.state, missing.why, missing.next_step) == (
        "missing",
        f"the kernel module is not built, and the headers of kernel {RELEASE} are not installed",
        f"apt install linux-headers-{RELEASE}, then perfxmm module build",
    )
    write_headers(tmp_path)
    no_compiler = _state(tmp_path, "make")
    assert no_compiler.state == "missing"
    assert no_compiler.next_step == "apt install gcc-12, then perfxmm module build"
    buildable = _state(tmp_path, "make", "gcc-12")
    assert (buildable.state, buildable.next_step) == ("buildable", "perfxmm module build")
    file = tmp_path / ".cache/perfxmm/kmod" / RELEASE / "xsaves_nmi.ko"
    file.parent.mkdir(parents=True)
    file.write_bytes(module_bytes())
    built = _state(tmp_path)
    assert (built.state, built.file, built.next_step) == ("built", file, "perfxmm module load")
    write_module_sysfs(tmp_path)
    loaded = _state(tmp_path)
    assert (loaded.state, loaded.file, loaded.why, loaded.next_step) == ("loaded", file, "", "")
    assert loaded.status is not None
    plain = loaded.to_dict()
    assert (plain["state"], plain["kernel"], plain["file"]) == ("loaded", RELEASE, str(file))
    assert plain["module"]["xcr0"] == "0x2e7"


def test_a_kernel_without_modules(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    found = _state(tmp_path, "make", "gcc-12")
    assert (found.state, found.why) == ("missing", "this kernel has no loadable modules")


def _efi(root: Path, value: int) -> None:
    variables = root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (variables / name).write_bytes(bytes([6, 0, 0, 0, value]))


@pytest.mark.parametrize(
    ("secure_boot", "enforced", "lockdown", "needed"),
    [
        (1, "Y", None, True),
        (1, "N", "none [integrity] confidentiality", True),
        (0, "N", "[none] integrity confidentiality", False),
        (1, None, None, None),
        (None, "N", None, False),
    ],
)
def test_whether_a_signature_is_needed(
    tmp_path: Path, secure_boot: int | None, enforced: str | None, lockdown: str | None,
    needed: bool | None,
) -> None:  # fmt: skip
    root = make_root(tmp_path, lockdown=lockdown)
    if secure_boot is not None:
        _efi(root, secure_boot)
    if enforced is not None:
        (root / "sys/module/module/parameters").mkdir(parents=True)
        (root / "sys/module/module/parameters/sig_enforce").write_text(f"{enforced}\n")
    found = read_signing(RELEASE, survey(root), root)
    assert found.needed is needed
    assert found.secure_boot is (bool(secure_boot) if secure_boot is not None else False)


def test_steps_to_a_signature(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    without = [one.command for one in steps(read_signing(RELEASE, survey(root), root), None)]
    assert without[0] == "perfxmm module build"
    assert without[1].startswith("openssl req -new -x509 ")
    assert without[2:] == [
        "mokutil --import MOK.der && reboot",
        "sign-file sha256 MOK.priv MOK.der xsaves_nmi.ko",
        "perfxmm module load",
    ]
    headers = write_headers(root)
    (headers / "scripts").mkdir()
    (headers / "scripts/sign-file").write_text("")
    keys = root / "var/lib/dkms"
    keys.mkdir(parents=True)
    (keys / "mok.key").write_text("")
    (keys / "mok.pub").write_text("")
    signing = read_signing(RELEASE, survey(root), root)
    assert [one.command for one in steps(signing, Path("/m/xsaves_nmi.ko"))] == [
        f"mokutil --test-key {keys}/mok.pub",
        f"mokutil --import {keys}/mok.pub && reboot",
        f"{headers}/scripts/sign-file sha256 {keys}/mok.key {keys}/mok.pub /m/xsaves_nmi.ko",
        "perfxmm module load",
    ]
