"""What the packages are called here: headers, compilers, make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_DEBIAN = ("debian", "ubuntu")
_FEDORA = ("fedora", "rhel", "centos")
_SUSE = ("suse", "opensuse", "opensuse-leap", "opensuse-tumbleweed")


@dataclass(frozen=True, slots=True)
class Distribution:
    """ids: ID and ID_LIKE of os-release(5), own name first; empty where there is no such file."""

    ids: tuple[str, ...] = ()
    name: str = ""

    def _is(self, family: tuple[str, ...]) -> bool:
        return any(one in family for one in self.ids)

    def headers_package(self, release: str) -> str:
        """The package with the headers of kernel `release`, "" where that is not known."""
        if self._is(_DEBIAN):
            return f"linux-headers-{release}"
        if self._is(_FEDORA):
            return f"kernel-devel-{release}"
        if self._is(("arch",)):
            # Arch puts the flavour at the end of the release; the plain kernel's is "arch1-1".
            for flavour in ("lts", "zen", "hardened", "rt"):
                if release.endswith(f"-{flavour}"):
                    return f"linux-{flavour}-headers"
            return "linux-headers"
        if self._is(_SUSE):
            return f"kernel-{release.rpartition('-')[2]}-devel"
        return ""

    def compiler_package(self, compiler: str) -> str:
        """The package with `compiler`, a program's name such as gcc-12 or clang-19."""
        if self._is(_DEBIAN):
            return compiler
        return compiler.partition("-")[0]

    def install(self, package: str) -> str:
        """The command that installs `package`, "" where that is not known."""
        if self._is(_DEBIAN):
            return f"apt install {package}"
        if self._is(_FEDORA):
            return f"dnf install {package}"
        if self._is(("arch",)):
            return f"pacman -S {package}"
        if self._is(_SUSE):
            return f"zypper install {package}"
        return ""


def read_distribution(root: Path = Path("/")) -> Distribution:
    """By os-release(5) below `root`."""
    values: dict[str, str] = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            values[key.strip()] = value.strip().strip("\"'")
        break
    ids = (values.get("ID", ""), *values.get("ID_LIKE", "").split())
    return Distribution(tuple(one for one in ids if one), values.get("PRETTY_NAME", ""))
