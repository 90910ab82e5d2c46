"""Files as the module xsaves_nmi, a kernel's headers and a distribution lay them out."""

from __future__ import annotations

from pathlib import Path

RELEASE = "6.1.0-50-amd64"
COMPILER = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
COMPONENTS = """nr size offset alignment
0 160 0 1
1 256 160 1
2 256 576 1
5 64 1088 1
6 512 1152 1
7 1024 1664 1
11 16 0 1
"""
VALUES = {
    "version": "1.0", "nmi": "ipi", "hz": "999", "period": "0", "instruction": "xsaves",
    "rfbm": "0x8e6", "xcr0": "0x2e7", "length": "2448", "listeners": "2", "running": "1",
    "ssp": "1", "kernel_hits": "0",
}  # fmt: skip
STATS = {"hits": 1000, "written": 700, "dropped_kernel": 290, "dropped_idle": 10}


def write_module_sysfs(root: Path, *, without: tuple[str, ...] = ()) -> Path:
    """/sys/kernel/xsaves_nmi below `root`, less the files in `without`."""
    base = root / "sys/kernel/xsaves_nmi"
    (base / "stats").mkdir(parents=True)
    for name, value in VALUES.items():
        if name not in without:
            (base / name).write_text(f"{value}\n")
    if "components" not in without:
        (base / "components").write_text(COMPONENTS)
    for name, count in STATS.items():
        (base / "stats" / name).write_text(f"{count}\n")
    return base


def write_headers(
    root: Path, release: str = RELEASE, compiler: str | None = COMPILER, *, quote: str = ""
) -> Path:
    """/lib/modules/RELEASE/build below `root`. compiler None: headers that do not say which.
    quote: around texts, as 5.10 writes them; 6.1 and later do not."""
    headers = root / "lib/modules" / release / "build"
    (headers / "include/config").mkdir(parents=True)
    (headers / "Makefile").write_text("modules:\n")
    text = "" if compiler is None else (
        f"CONFIG_X86=y\nCONFIG_CC_VERSION_TEXT={quote}{compiler}{quote}\nCONFIG_GCC_VERSION=120200\n"
    )
    (headers / "include/config/auto.conf").write_text(text)
    return headers


def write_os_release(root: Path, identity: str, like: str = "") -> None:
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc/os-release").write_text(
        f'PRETTY_NAME="{identity} of this test"\nID={identity}\nID_LIKE="{like}"\n'
    )


def module_bytes(vermagic: str = f"{RELEASE} SMP preempt mod_unload modversions ") -> bytes:
    """A module's file as far as anybody here looks: its .modinfo strings."""
    return b"\x7fELF" + bytes(60) + b"license=GPL\0vermagic=" + vermagic.encode() + b"\0name=x\0"
