"""A tree of files that looks like /proc and /sys of some machine."""

from __future__ import annotations

from pathlib import Path

NO_CAPS = 0
ALL_CAPS = (1 << 41) - 1
PERFMON = 1 << 38
SYS_PTRACE = 1 << 19


def make_root(
    base: Path, *, paranoid: int | None = 2, caps: int | None = NO_CAPS,
    lockdown: str | None = None, ptrace_scope: int | None = None, mlock_kb: int | None = 516,
    max_rate: int | None = 100_000, seccomp: int = 0, container: str = "", cgroup: str = "0::/\n",
    uid_map: str = "         0          0 4294967295\n", tasks: dict[int, str] | None = None,
) -> Path:
    """Writes the tree below `base` and returns it. None leaves a file out."""
    values = {
        "proc/sys/kernel/perf_event_paranoid": paranoid,
        "proc/sys/kernel/perf_event_mlock_kb": mlock_kb,
        "proc/sys/kernel/perf_event_max_sample_rate": max_rate,
        "proc/sys/kernel/yama/ptrace_scope": ptrace_scope,
        "sys/kernel/security/lockdown": lockdown,
        "proc/self/cgroup": cgroup,
        "proc/self/uid_map": uid_map,
    }
    if caps is not None:
        values["proc/self/status"] = (
            f"Name:\tpython\nCapEff:\t{caps:016x}\nNoNewPrivs:\t0\nSeccomp:\t{seccomp}\n"
        )
    if container:
        values[container] = ""
    for pid, status in (tasks or {}).items():
        values[f"proc/{pid}/status"] = status
    for name, value in values.items():
        if value is not None:
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n" if isinstance(value, int) else value)
    return base


def task_status(*, uid: int = 0, tracer: int = 0) -> str:
    uids = "\t".join([str(uid)] * 4)
    return f"Name:\tapp\nState:\tS (sleeping)\nTracerPid:\t{tracer}\nUid:\t{uids}\n"
