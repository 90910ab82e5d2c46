"""Building the module: what make is told, and what becomes of the folder."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.fake_module import RELEASE, module_bytes

from perfxmm.errors import NotSupported, OutputError, PerfxmmError, UsageError
from perfxmm.sources.kmodule.building import build, read_vermagic
from perfxmm.sources.kmodule.place import SOURCES, build_folder, find_module
from perfxmm.sources.kmodule.toolchain import Toolchain

TOOLS = Toolchain(RELEASE, Path("/headers"), None, ("CC=gcc-12",))


class FakeMake:
    def __init__(self, status: int = 0, output: str = "", makes: bytes | None = None) -> None:
        self.commands: list[list[str]] = []
        self._status = status
        self._output = output
        self._makes = module_bytes() if makes is None else makes

    def __call__(self, command: Sequence[str], log: Path) -> int:
        self.commands.append(list(command))
        log.write_text(self._output)
        if self._makes:
            (log.parent / "xsaves_nmi.ko").write_bytes(self._makes)
        return self._status


def test_sources_are_complete() -> None:
    names = sorted(path.name for path in SOURCES.iterdir() if not path.name.startswith("."))
    objects = (SOURCES / "Kbuild").read_text().replace("\\\n", " ").partition("xsaves_nmi-y :=")[2]
    for word in objects.partition("\n")[0].split():
        assert word.removesuffix(".o") + ".c" in names
    assert {"COPYING", "Kbuild", "Makefile", "README.md", "dkms.conf"} <= set(names)


def test_what_make_is_told(tmp_path: Path) -> None:
    make = FakeMake()
    folder = tmp_path / "new" / "folder"
    built = build(TOOLS, folder, run=make)
    assert make.commands == [
        ["make", "-C", "/headers", f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "CC=gcc-12",
         "modules"]
    ]  # fmt: skip
    assert built.file == folder / "xsaves_nmi.ko"
    assert (built.vermagic, built.release) == (f"{RELEASE} SMP preempt mod_unload modversions",
                                               RELEASE)  # fmt: skip
    assert (folder / "xsaves_nmi_main.c").read_bytes() == (
        SOURCES / "xsaves_nmi_main.c"
    ).read_bytes()


def test_nothing_of_an_earlier_build_is_kept(tmp_path: Path) -> None:
    build(TOOLS, tmp_path, run=FakeMake())
    (tmp_path / "xsaves_nmi_main.o").write_bytes(b"of other headers")
    with pytest.raises(NotSupported):
        build(TOOLS, tmp_path, run=FakeMake(2, makes=b""))
    assert not (tmp_path / "xsaves_nmi_main.o").exists()
    assert not (tmp_path / "xsaves_nmi.ko").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    # A kernel's own tree has a Kbuild, too.
    (tmp_path / "Kbuild").write_text("obj-y :=\n")
    make = FakeMake()
    with pytest.raises(UsageError, match="holds other things"):
        build(TOOLS, tmp_path, run=make)
    assert make.commands == []
    assert [path.name for path in tmp_path.iterdir()] == ["Kbuild"]


def test_the_sources_themselves_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "xsaves_nmi_main.c").write_text("/* mine */\n")
    with pytest.raises(UsageError, match="holds other things"):
        build(TOOLS, tmp_path, sources=tmp_path, run=FakeMake())
    assert (tmp_path / "xsaves_nmi_main.c").read_text() == "/* mine */\n"


def test_objects_beside_the_sources_are_not_taken(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ("xsaves_nmi_main.c", "xsaves_nmi_main.o", "xsaves_nmi.ko", "xsaves_nmi.mod.c",
                 ".xsaves_nmi.o.cmd", "Module.symvers", "modules.order", "Kbuild"):  # fmt: skip
        (sources / name).write_text(name)
    make = FakeMake(makes=b"")
    folder = tmp_path / "folder"
    with pytest.raises(NotSupported):
        build(TOOLS, folder, sources=sources, run=make)
    assert sorted(path.name for path in folder.iterdir()) == [
        "Kbuild", "build.log", "xsaves_nmi_main.c",
    ]  # fmt: skip


def test_a_failed_build_tells_the_compilers_words(tmp_path: Path) -> None:
    said = "  CC [M]  xsaves_nmi_main.o\nxsaves_nmi_main.c:1:2: error: no such thing\nmake: *** 2\n"
    with pytest.raises(NotSupported) as caught:
        build(TOOLS, tmp_path, run=FakeMake(2, said, makes=b""))
    assert str(caught.value) == (
        f"the module does not build ({tmp_path}/build.log): "
        "xsaves_nmi_main.c:1:2: error: no such thing"
    )
    # A compiler that is not there is told by the shell, and only by it.
    said = "/bin/sh: 1: gcc-14: not found\nmake[2]: *** [x.o] Error 127\nmake: *** Error 2\n"
    with pytest.raises(NotSupported) as caught:
        build(TOOLS, tmp_path, run=FakeMake(2, said, makes=b""))
    assert caught.value.why == "/bin/sh: 1: gcc-14: not found"
    # Also where make says it went well and made nothing.
    with pytest.raises(NotSupported):
        build(TOOLS, tmp_path, run=FakeMake(0, makes=b""))


def test_a_build_that_hangs_is_ended(tmp_path: Path) -> None:
    def hang(command: Sequence[str], log: Path) -> int:
        raise subprocess.TimeoutExpired(list(command), 600)

    with pytest.raises(PerfxmmError, match="has not ended in 600 s"):
        build(TOOLS, tmp_path, run=hang)


def test_folders_that_make_would_take_apart(tmp_path: Path) -> None:
    for name in ("with blank", "with:colon", "with#hash", "with$dollar"):
        with pytest.raises(UsageError, match="make cannot build"):
            build(TOOLS, tmp_path / name, run=FakeMake())
        assert not (tmp_path / name).exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot build in"):
        build(TOOLS, tmp_path / "file" / "folder", run=FakeMake())


def test_vermagic_of_other_files(tmp_path: Path) -> None:
    file = tmp_path / "x.ko"
    file.write_bytes(b"\x7fELF nothing of the kind")
    assert read_vermagic(file) == ""


def test_where_builds_go() -> None:
    both = {"XDG_CACHE_HOME": "/c", "HOME": "/h"}
    assert build_folder("6.1", both) == Path("/c/perfxmm/kmod/6.1")
    assert build_folder("6.1", {"HOME": "/h"}) == Path("/h/.cache/perfxmm/kmod/6.1")
    assert build_folder("6.1", {"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path(
        "/h/.cache/perfxmm/kmod/6.1"
    )


def test_which_module_is_found(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_module(RELEASE, tmp_path, home) is None
    dkms = tmp_path / "lib/modules" / RELEASE / "updates/dkms/xsaves_nmi.ko.xz"
    dkms.parent.mkdir(parents=True)
    dkms.write_bytes(b"")
    assert find_module(RELEASE, tmp_path, home) == dkms
    built = tmp_path / ".cache/perfxmm/kmod" / RELEASE / "xsaves_nmi.ko"
    built.parent.mkdir(parents=True)
    built.write_bytes(b"")
    assert find_module(RELEASE, tmp_path, home) == built
