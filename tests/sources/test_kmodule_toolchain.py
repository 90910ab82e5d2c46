"""Headers, compilers and packages for a build of the module, on machines that are files."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_module import COMPILER, RELEASE, write_headers, write_os_release

from perfxmm.errors import NotSupported
from perfxmm.sources.kmodule.distribution import Distribution, read_distribution
from perfxmm.sources.kmodule.toolchain import find_toolchain, kernel_compiler, parse_compiler

DEBIAN = Distribution(("debian",), "Debian")


def _which(*there: str):
    return lambda program: f"/usr/bin/{program}" if program in there else None


@pytest.mark.parametrize(
    ("text", "family", "major"),
    [
        (COMPILER, "gcc", 12),
        ("x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "gcc", 14),
        ("gcc (GCC) 15.1.1 20250521 (Red Hat 15.1.1-2)", "gcc", 15),
        ("Debian clang version 19.1.7 (3+b1)", "clang", 19),
        ("clang version 21.1.0", "clang", 21),
    ],
)
def test_compilers_by_their_own_first_line(text: str, family: str, major: int) -> None:
    found = parse_compiler(text)
    assert found is not None
    assert (found.family, found.major, found.text) == (family, major, text)


def test_a_compiler_that_is_neither_is_not_guessed() -> None:
    assert parse_compiler("icc (ICC) 2021.10.0 20230609") is None


@pytest.mark.parametrize(
    ("ids", "release", "package", "command"),
    [
        (("debian",), RELEASE, f"linux-headers-{RELEASE}", f"apt install linux-headers-{RELEASE}"),
        (("ubuntu", "debian"), "6.8.0-40-generic", "linux-headers-6.8.0-40-generic",
         "apt install linux-headers-6.8.0-40-generic"),
        (("linuxmint", "ubuntu", "debian"), "6.8.0-40-generic", "linux-headers-6.8.0-40-generic",
         "apt install linux-headers-6.8.0-40-generic"),
        (("fedora",), "6.11.4-301.fc41.x86_64", "kernel-devel-6.11.4-301.fc41.x86_64",
         "dnf install kernel-devel-6.11.4-301.fc41.x86_64"),
        (("arch",), "6.11.5-arch1-1", "linux-headers", "pacman -S linux-headers"),
        (("arch",), "6.6.58-1-lts", "linux-lts-headers", "pacman -S linux-lts-headers"),
        (("opensuse-tumbleweed", "opensuse", "suse"), "6.11.5-1-default", "kernel-default-devel",
         "zypper install kernel-default-devel"),
    ],
)  # fmt: skip
def test_headers_by_distribution(
    tmp_path: Path, ids: tuple[str, ...], release: str, package: str, command: str
) -> None:
    write_os_release(tmp_path, ids[0], " ".join(ids[1:]))
    found = read_distribution(tmp_path)
    assert found.ids == ids
    assert found.headers_package(release) == package
    assert found.install(package) == command


def test_an_unknown_distribution_is_not_guessed(tmp_path: Path) -> None:
    found = read_distribution(tmp_path)
    assert found == Distribution()
    assert found.headers_package(RELEASE) == ""
    with pytest.raises(NotSupported) as caught:
        find_toolchain(RELEASE, found, root=tmp_path, which=_which("make"))
    assert caught.value.next_step == f"install the package with the headers of kernel {RELEASE}"


def test_missing_headers_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(NotSupported) as caught:
        find_toolchain(RELEASE, DEBIAN, root=tmp_path, which=_which("make"))
    assert str(caught.value) == (
        f"the headers of kernel {RELEASE} are not installed (/lib/modules/{RELEASE}/build): "
        "a module is built against the headers of the kernel it is for\n"
        f"apt install linux-headers-{RELEASE}, then perfxmm module build"
    )
    assert caught.value.exit_code == 4


def test_missing_make_and_compiler_name_the_package(tmp_path: Path) -> None:
    write_headers(tmp_path)
    with pytest.raises(NotSupported) as caught:
        find_toolchain(RELEASE, DEBIAN, root=tmp_path, which=_which("gcc-12"))
    assert str(caught.value) == "make is not installed\napt install make"
    with pytest.raises(NotSupported) as caught:
        find_toolchain(RELEASE, DEBIAN, root=tmp_path, which=_which("make", "gcc"),
                       version_of=lambda _: "gcc (Debian 14.2.0-19) 14.2.0")  # fmt: skip
    assert str(caught.value) == (
        f"this kernel was built with {COMPILER}, and gcc-12 is not installed\napt install gcc-12"
    )


def test_fedora_has_one_gcc(tmp_path: Path) -> None:
    write_headers(tmp_path, compiler="gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)")
    with pytest.raises(NotSupported) as caught:
        find_toolchain(RELEASE, Distribution(("fedora",)), root=tmp_path, which=_which("make"))
    assert caught.value.next_step == "dnf install gcc"


@pytest.mark.parametrize(
    ("compiler", "there", "arguments"),
    [
        (COMPILER, ("make", "gcc-12", "gcc"), ("CC=gcc-12",)),
        (COMPILER, ("make", "gcc"), ("CC=gcc",)),
        ("Debian clang version 19.1.7 (3+b1)", ("make", "clang-19"), ("CC=clang-19", "LLVM=-19")),
        ("clang version 12.2.0", ("make", "clang"), ("CC=clang", "LLVM=1")),
    ],
)
def test_the_kernels_own_compiler_is_taken(
    tmp_path: Path, compiler: str, there: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    headers = write_headers(tmp_path, compiler=compiler)
    versions = {"gcc": "gcc (Debian 12.2.0-14) 12.2.0", "clang": "clang version 12.2.0"}
    found = find_toolchain(RELEASE, DEBIAN, root=tmp_path, which=_which(*there),
                           version_of=versions.__getitem__)  # fmt: skip
    assert (found.headers, found.make_arguments, found.remark) == (headers, arguments, "")


@pytest.mark.parametrize("quote", ['"', ""])
def test_both_ways_in_which_headers_name_it(tmp_path: Path, quote: str) -> None:
    found = kernel_compiler(write_headers(tmp_path, quote=quote))
    assert found is not None
    assert (found.family, found.major, found.text) == ("gcc", 12, COMPILER)


def test_headers_that_do_not_name_a_compiler_are_remarked(tmp_path: Path) -> None:
    write_headers(tmp_path, compiler=None)
    found = find_toolchain(RELEASE, DEBIAN, root=tmp_path, which=_which("make"))
    assert found.make_arguments == ()
    assert found.remark == "the headers do not say which compiler"


def test_headers_elsewhere(tmp_path: Path) -> None:
    headers = write_headers(tmp_path / "elsewhere")
    found = find_toolchain(RELEASE, DEBIAN, root=tmp_path, headers=headers,
                           which=_which("make", "gcc-12"))  # fmt: skip
    assert found.headers == headers
    with pytest.raises(NotSupported, match="nowhere"):
        find_toolchain(RELEASE, DEBIAN, root=tmp_path, headers=tmp_path / "nowhere")
