"""What the loaded module says of itself in /sys/kernel/xsaves_nmi."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perfxmm.sources.kmodule.place import MODULE

# In the order of xsaves_nmi.h; names that a newer module has come after them.
_STATS = (
    "hits", "written", "dropped_kernel", "dropped_kernel_fpu", "dropped_guest", "dropped_idle",
    "dropped_nobody", "dropped_late", "dropped_not_loaded", "dropped_ts", "dropped_period",
    "throttled", "errors", "ipis_busy", "ipis_lost", "nmis_late", "cycles", "save_cycles",
    "worst_cycles", "worst_save_cycles",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Component:
    """CPUID leaf 0xD: bytes, offset in the standard layout, alignment in the compacted one."""

    nr: int
    size: int
    offset: int
    alignment: int


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """The module as it is loaded. Numbers that an older module does not have are None.

    rfbm: components asked for in user mode. length_bytes: of an image. listeners: perf events on
    the tracepoint. stats: name -> count, see perfxmm/kmod/README.md.
    """

    version: str
    nmi: str
    instruction: str
    hz: int | None
    period: int | None
    rfbm: int | None
    xcr0: int | None
    length_bytes: int | None
    listeners: int | None
    running: bool
    ssp: bool
    kernel_hits: bool
    components: tuple[Component, ...]
    stats: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; masks as hex strings."""
        plain = asdict(self)
        for name in ("rfbm", "xcr0"):
            plain[name] = None if plain[name] is None else f"{plain[name]:#x}"
        return plain


def read_status(root: Path = Path("/")) -> ModuleStatus | None:
    """The status of the loaded module, None where it is not loaded."""
    base = root / "sys/kernel" / MODULE
    if not base.is_dir():
        return None

    def text(name: str) -> str:
        try:
            return (base / name).read_text(errors="replace").strip()
        except OSError:
            return ""

    def number(name: str) -> int | None:
        try:
            return int(text(name), 0)
        except ValueError:
            return None

    stats = {}
    if (base / "stats").is_dir():
        there = {one.name for one in (base / "stats").iterdir()}
        for name in (*_STATS, *sorted(there.difference(_STATS))):
            value = number(f"stats/{name}")
            if value is not None:
                stats[name] = value
    return ModuleStatus(
        version=text("version"), nmi=text("nmi"), instruction=text("instruction"),
        hz=number("hz"), period=number("period"), rfbm=number("rfbm"), xcr0=number("xcr0"),
        length_bytes=number("length"), listeners=number("listeners"),
        running=text("running") == "1", ssp=text("ssp") == "1",
        kernel_hits=text("kernel_hits") == "1", components=parse_components(text("components")),
        stats=stats,
    )  # fmt: skip


def parse_components(text: str) -> tuple[Component, ...]:
    """The component table: a header line, then `nr size offset alignment`. Other lines are not
    for this release and left out."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) >= 4 and all(word.isascii() and word.isdigit() for word in words[:4]):
            found.append(Component(*(int(word) for word in words[:4])))
    return tuple(found)
