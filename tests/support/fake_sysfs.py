"""Trees that look like /sys and /proc, written file by file.

The numbers of the PMUs are those that Linux gives on a Sapphire Rapids server, on a hybrid client
(Alder Lake) and on a Zen 3 server, as far as the tests need them; read from kernel sources
(arch/x86/events/intel/core.c, amd/core.c), not from such machines.
"""

from __future__ import annotations

from pathlib import Path

INTEL_FORMAT = {
    "event": "config:0-7", "umask": "config:8-15", "edge": "config:18", "pc": "config:19",
    "inv": "config:23", "cmask": "config:24-31", "in_tx": "config:32", "in_tx_cp": "config:33",
    "ldlat": "config1:0-15", "offcore_rsp": "config1:0-63", "frontend": "config1:0-23",
}  # fmt: skip
INTEL_EVENTS = {
    "cpu-cycles": "event=0x3c", "instructions": "event=0xc0",
    "cache-misses": "event=0x2e,umask=0x41",
    "mem-loads": "event=0xcd,umask=0x1,ldlat=3", "mem-stores": "event=0xcd,umask=0x2",
    "slots": "event=0x00,umask=0x4", "topdown-retiring": "event=0x00,umask=0x80",
}  # fmt: skip
AMD_FORMAT = {
    "event": "config:0-7,32-35", "umask": "config:8-15", "edge": "config:18", "inv": "config:23",
    "cmask": "config:24-31",
}  # fmt: skip
TRACEPOINTS = {"sched/sched_switch": 314, "syscalls/sys_enter_write": 758, "irq/softirq_entry": 155}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def add_pmu(
    root: Path, name: str, number: int, *, formats: dict[str, str] | None = None,
    events: dict[str, str] | None = None, **files: str,
) -> Path:
    """One PMU. `files` are further files by name, with "caps__x" for caps/x."""
    path = root / "bus/event_source/devices" / name
    write(path / "type", str(number))
    for directory, entries in (("format", formats), ("events", events)):
        for entry, text in (entries or {}).items():
            write(path / directory / entry, text)
    for file, text in files.items():
        write(path / file.replace("__", "/"), text)
    return path


def add_common(root: Path, cpus: str = "0-7") -> None:
    """What every machine has: software PMUs, CPUs, tracefs."""
    for name, number in (("software", 1), ("tracepoint", 2), ("breakpoint", 5), ("uprobe", 8)):
        add_pmu(root, name, number)
    add_pmu(root, "msr", 9, formats={"event": "config:0-63"}, events={"tsc": "event=0x00"})
    write(root / "devices/system/cpu/online", cpus)
    for name, number in TRACEPOINTS.items():
        write(root / "kernel/tracing/events" / name / "id", str(number))
    write(root / "kernel/tracing/events/ftrace/function/format", "name: function")


def server(root: Path) -> Path:
    """A Sapphire Rapids server: one core PMU, two memory controllers."""
    add_common(root)
    add_pmu(root, "cpu", 4, formats=INTEL_FORMAT, events=INTEL_EVENTS, caps__max_precise="3")
    for unit in range(2):
        add_pmu(
            root, f"uncore_imc_{unit}", 20 + unit, cpumask="0,4",
            formats={"event": "config:0-7", "umask": "config:8-15", "threshold": "config:24-31"},
            events={"cas_count_read": "event=0x05,umask=0xcf", "cas_count_read.scale": "6.1e-5",
                    "cas_count_read.unit": "MiB"},
        )  # fmt: skip
    add_pmu(
        root, "intel_pt", 10,
        formats={"cyc": "config:1", "psb_period": "config:24-27", "tail": "config2:0-7",
                 "high": "config3:8-15", "odd": "config9:1"},
    )  # fmt: skip
    return root


def hybrid(root: Path) -> Path:
    """An Alder Lake client: two core PMUs with different CPUs."""
    add_common(root, "0-23")
    for name, number, cpus in (("cpu_core", 4, "0-15"), ("cpu_atom", 10, "16-23")):
        add_pmu(root, name, number, formats=INTEL_FORMAT, events=INTEL_EVENTS, cpus=cpus,
                caps__max_precise="3")  # fmt: skip
    return root


def amd(root: Path) -> Path:
    """A Zen 3 server: an event number in two pieces, no max_precise."""
    add_common(root)
    add_pmu(root, "cpu", 4, formats=AMD_FORMAT, events={"cpu-cycles": "event=0x76"})
    return root


def no_pmu(root: Path) -> Path:
    """A virtual machine without a PMU."""
    add_common(root)
    return root
