"""Package indexes, roots and boot tables of the machine room, without apt or an emulator."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from room import packages
from room.kernels import KERNELS, boot_of
from room.roots import Root, unpack
from room.trouble import Trouble, Unavailable

INDEX = """\
Package: linux-image-6.1.0-57-cloud-amd64
Version: 6.1.192-3
Installed-Size: 66
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool,
 linux-headers-6.1.0-57-common (= 6.1.192-3)
Filename: pool/main/l/linux/linux-image_6.1.192-3_amd64.deb
Size: 30210
SHA256: 00ff
Description: Linux
 A continuation line, with a colon: not a field

Package: busybox-static
Version: 1:1.35.0-4+b7
Size: 5

Incomplete: stanza
"""


def test_an_index_gives_names_versions_and_first_alternatives() -> None:
    image, busybox = packages.parse_packages(INDEX)
    assert image.name == "linux-image-6.1.0-57-cloud-amd64"
    assert image.version == "6.1.192-3"
    assert image.depends == (
        "kmod", "linux-base", "initramfs-tools", "linux-headers-6.1.0-57-common")
    assert (image.size_bytes, image.sha256) == (30210, "00ff")
    assert image.filename == "pool/main/l/linux/linux-image_6.1.192-3_amd64.deb"
    assert (busybox.version, busybox.depends, busybox.size_bytes) == ("1:1.35.0-4+b7", (), 5)


def test_continuation_lines_belong_to_their_field() -> None:
    (first, *_) = packages.stanzas(INDEX)
    assert first["Description"] == "Linux\nA continuation line, with a colon: not a field"
    assert "not a field" not in first


def test_a_simulation_says_what_would_be_installed() -> None:
    said = (
        "Reading package lists...\n"
        "Inst gcc-12-base (12.2.0-14 Debian:12.14/oldstable [amd64])\n"
        "Inst libc6 (2.36-9+deb12u14 Debian:12.14/oldstable [amd64]) []\n"
        "Inst zlib1g (1:1.2.13.dfsg-1 Debian:12.14/oldstable [amd64])\n"
        "Conf libc6 (2.36-9+deb12u14 Debian:12.14/oldstable [amd64])\n"
    )
    assert packages.to_install(said) == [
        ("gcc-12-base", "12.2.0-14"), ("libc6", "2.36-9+deb12u14"), ("zlib1g", "1:1.2.13.dfsg-1")]


def test_a_package_is_found_by_its_version_as_apt_writes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = packages.Place("x", ("bookworm",))
    archives = place.folder / "archives"
    archives.mkdir(parents=True)
    for name in ("zlib1g_1%3a1.2.13_amd64.deb", "zlib1g_1%3a1.2.11_amd64.deb"):
        (archives / name).touch()
    package = packages.Package("zlib1g", "1:1.2.13", (), "", 0, "")
    assert place.download([package]) == [archives / "zlib1g_1%3a1.2.13_amd64.deb"]


def test_security_suites_come_from_their_own_archive() -> None:
    place = packages.Place("x", ("bookworm", "bookworm-security"))
    lines = place.sources("http://mirror.example").splitlines()
    assert [line.split()[0] for line in lines] == ["deb", "deb-src", "deb", "deb-src"]
    assert lines[0].endswith(" http://mirror.example/debian bookworm main")
    assert lines[2].endswith(" http://mirror.example/debian-security bookworm-security main")
    assert all(f"[signed-by={packages.KEYRING}]" in line for line in lines)


def test_the_cache_is_where_the_desktop_standard_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert packages.cache_folder() == Path("/some/where/perfxmm-vm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert packages.cache_folder() == Path("/home/someone/.cache/perfxmm-vm")


@pytest.mark.parametrize(("repositories", "found"), [
    ("http://a.example/ubuntu/\nhttps://b.example/x/debian/\n", "https://b.example/x"),
    ("http://c.example/debian-security/\n", "http://c.example"),
    ("http://a.example/ubuntu/\n", ""),
    ("", ""),
])  # fmt: skip
def test_the_mirror_is_the_systems_own(repositories: str, found: str) -> None:
    assert packages.mirror_among(repositories) == found


def test_a_named_mirror_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("apt-get"):
        pytest.skip("apt-get is not here")
    monkeypatch.setenv("PERFXMM_VM_MIRROR", "http://mirror.example/pub/")
    assert packages.mirror() == "http://mirror.example/pub"


def test_without_apt_the_room_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="apt-get"):
        packages.Place("x", ("bookworm",)).update()
    assert list(tmp_path.iterdir()) == []


def deb(path: Path, files: dict[str, bytes]) -> Path:
    """A Debian package, written by hand: deb(5)."""

    def tar(members: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, body in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
        return out.getvalue()

    out = b"!<arch>\n"
    for name, body in (
        ("debian-binary", b"2.0\n"), ("control.tar.gz", tar({"./control": b"Package: x\n"})),
        ("data.tar.gz", tar(files)),
    ):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode()
        out += body + b"\n" * (len(body) % 2)
    path.write_bytes(out)
    return path


@pytest.fixture
def dpkg() -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not here")


@pytest.mark.usefixtures("dpkg")
def test_packages_unpack_into_a_merged_root(tmp_path: Path) -> None:
    one = deb(tmp_path / "one.deb", {"./bin/tool": b"old place", "./usr/bin/other": b"new place"})
    two = deb(tmp_path / "two.deb", {"./lib/x.so": b"library"})
    unpack([one, two], tmp_path / "root")
    assert (tmp_path / "root/usr/bin/tool").read_bytes() == b"old place"
    assert (tmp_path / "root/bin").is_symlink()
    assert (tmp_path / "root/bin/other").read_bytes() == b"new place"
    assert (tmp_path / "root/usr/lib/x.so").read_bytes() == b"library"


@pytest.mark.usefixtures("dpkg")
def test_a_package_that_is_cut_short_is_named(tmp_path: Path) -> None:
    whole = deb(tmp_path / "whole.deb", {"./usr/bin/x": bytes(4000)})
    cut = tmp_path / "cut.deb"
    cut.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(Trouble, match=r"cut\.deb does not unpack"):
        unpack([cut], tmp_path / "root")


def kernel_root(folder: Path, *paths: str) -> Root:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return Root(folder)


def test_a_kernel_image_is_found_in_either_place(tmp_path: Path) -> None:
    old = kernel_root(tmp_path / "a", "boot/vmlinuz-6.1.0-57-cloud-amd64")
    assert boot_of(KERNELS["6.1"], old).release == "6.1.0-57-cloud-amd64"
    new = kernel_root(tmp_path / "b", "usr/lib/modules/7.3.4+deb13-cloud-amd64/vmlinuz")
    boot = boot_of(KERNELS["7.3"], new)
    assert boot.release == "7.3.4+deb13-cloud-amd64"
    assert boot.headers == "/usr/src/linux-headers-7.3.4+deb13-cloud-amd64"


def test_a_suite_that_moved_on_is_told_and_not_run(tmp_path: Path) -> None:
    moved = kernel_root(tmp_path / "a", "boot/vmlinuz-6.13.1-cloud-amd64")
    with pytest.raises(Trouble, match=r"now carry 6\.13\.1-cloud-amd64, not 6\.12"):
        boot_of(KERNELS["6.12"], moved)
    with pytest.raises(Trouble, match="holds 0 kernel images"):
        boot_of(KERNELS["6.12"], kernel_root(tmp_path / "b", "boot/config"))
