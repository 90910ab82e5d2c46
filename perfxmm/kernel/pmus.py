"""PMUs as sysfs describes them: type number, named events, and where each term's bits go.

Source: Documentation/ABI/testing/sysfs-bus-event_source-devices{,-events,-format}, Linux 7.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from perfxmm.errors import NotSupported
from perfxmm.kernel.maps import parse_cpu_list

DEVICES = "bus/event_source/devices"
CONFIG_FIELDS = ("config", "config1", "config2", "config3", "config4")
# Files beside an event's own that describe how to print it.
EVENT_ATTRIBUTES = (".scale", ".unit", ".per-pkg", ".snapshot")
_FORMAT = re.compile(r"(config[1-4]?):(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)")


@dataclass(frozen=True, slots=True)
class Format:
    """Where the bits of one term go. bits: positions in `field`, the value's lowest bit first."""

    field: str
    bits: tuple[int, ...]

    @property
    def largest(self) -> int:
        return (1 << len(self.bits)) - 1

    def insert(self, word: int, value: int) -> int:
        """`word` with this term set to `value`, replacing what was there."""
        for position, bit in enumerate(self.bits):
            word = word & ~(1 << bit) | (value >> position & 1) << bit
        return word


@dataclass(frozen=True, slots=True)
class Pmu:
    """One PMU. cpus: the CPUs its events are opened on, None where any will do.

    is_core: counts what the cores execute, so that generic hardware events exist on it.
    """

    name: str
    type: int
    path: Path
    is_core: bool
    cpus: tuple[int, ...] | None

    def formats(self) -> dict[str, Format]:
        """Terms by name. Lines that this program cannot read are left out."""
        found = {}
        for name in _names(self.path / "format"):
            parsed = parse_format(_text(self.path / "format" / name))
            if parsed is not None:
                found[name] = parsed
        return found

    def events(self) -> dict[str, str]:
        """The terms behind each named event: {"mem-loads": "event=0xcd,umask=0x1,ldlat=3"}."""
        return {name: _text(self.path / "events" / name) for name in self.event_names()}

    def event_names(self) -> list[str]:
        """The names alone: on a big server reading every event takes a noticeable time."""
        names = _names(self.path / "events")
        return [name for name in names if not name.endswith(EVENT_ATTRIBUTES)]

    def max_precise(self) -> int:
        """The highest precise_ip this PMU offers, 0 where it does not say."""
        text = _text(self.path / "caps" / "max_precise")
        return int(text) if text.isdigit() else 0


def parse_format(text: str) -> Format | None:
    """A format line such as "config:0-7,32-35"; None where it is of no known form."""
    match = _FORMAT.fullmatch(text)
    if match is None:
        return None
    bits: list[int] = []
    for span in match[2].split(","):
        first, _, last = span.partition("-")
        bits.extend(range(int(first), int(last or first) + 1))
    if not bits or max(bits) > 63 or len(set(bits)) != len(bits):
        return None
    return Format(match[1], tuple(bits))


def read_pmus(sysfs: Path = Path("/sys")) -> dict[str, Pmu]:
    """Every PMU by name, sorted. Raises NotSupported where the kernel has no perf events."""
    devices = sysfs / DEVICES
    try:
        names = sorted(entry.name for entry in devices.iterdir())
    except OSError:
        raise NotSupported(
            "this kernel offers no perf events", where=str(devices),
            next_step="look whether /sys is mounted and the kernel has CONFIG_PERF_EVENTS",
        ) from None  # fmt: skip
    found = {}
    for name in names:
        path = devices / name
        type_text = _text(path / "type")
        if not type_text.isdigit():
            continue
        # `cpus` is a core PMU's file on hybrid machines, `cpumask` an uncore PMU's everywhere.
        listed = _text(path / "cpus") or _text(path / "cpumask")
        found[name] = Pmu(
            name, int(type_text), path, name == "cpu" or (path / "cpus").exists(),
            parse_cpu_list(listed, where=str(path)) if listed else None,
        )  # fmt: skip
    return found


def core_pmus(pmus: dict[str, Pmu]) -> list[Pmu]:
    return [pmu for pmu in pmus.values() if pmu.is_core]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
