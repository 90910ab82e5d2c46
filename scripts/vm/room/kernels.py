"""Which kernel comes from which suite, with its headers and the compiler it was built with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .packages import Place
from .roots import Root, make_root
from .trouble import Trouble

TOOLS = ("make", "dash", "coreutils", "sed", "grep", "findutils", "gawk", "diffutils", "libc6-dev")


@dataclass(frozen=True)
class Kernel:
    """One kernel series.

    suites: where image, headers and compiler are; the later of two versions wins. backports: the
    kernel is taken from the last suite, which apt does not prefer by itself.
    """

    series: str
    suites: tuple[str, ...]
    compiler: str
    backports: bool = False

    @property
    def place(self) -> Place:
        return Place(f"kernel-{self.series}", self.suites)

    def root(self, refresh: bool = False) -> Root:
        """Image, modules, headers, compiler and make of this kernel, unpacked."""
        suffix = f"/{self.suites[-1]}" if self.backports else ""
        return make_root(
            f"kernel-{self.series}", self.place, (self.compiler, *TOOLS, "libelf1", "zlib1g"),
            ((f"linux-headers-cloud-amd64{suffix}", "linux-"),
             (f"linux-image-cloud-amd64{suffix}", "linux-")),
            refresh,
        )


KERNELS = {
    kernel.series: kernel
    for kernel in (
        Kernel("5.10", ("bullseye",), "gcc-10"),
        Kernel("6.1", ("bookworm", "bookworm-security"), "gcc-12"),
        Kernel("6.12", ("trixie",), "gcc-14"),
        Kernel("7.3", ("trixie", "trixie-backports"), "gcc-14", backports=True),
    )
}


@dataclass(frozen=True)
class Boot:
    """What boots: the release (`uname -r`), the image and the headers' folder inside the root."""

    release: str
    image: Path
    headers: str


def boot_of(kernel: Kernel, root: Root) -> Boot:
    """The one kernel image of a root.

    Raises:
        Trouble: none or several, or one of another series than was asked for.
    """
    images = {path.name.removeprefix("vmlinuz-"): path
              for path in (root.folder / "boot").glob("vmlinuz-*")}
    # From 7.3 on Debian ships the image beside its modules.
    images |= {path.parent.name: path for path in root.folder.glob("usr/lib/modules/*/vmlinuz")}
    if len(images) != 1:
        raise Trouble(f"{root.folder} holds {len(images)} kernel images, expected one")
    ((release, image),) = images.items()
    if not release.startswith(kernel.series + "."):
        raise Trouble(f"the suites {', '.join(kernel.suites)} now carry {release}, not "
                      f"{kernel.series}: the table in scripts/vm/room/kernels.py needs a new row")
    return Boot(release, image, f"/usr/src/linux-headers-{release}")
