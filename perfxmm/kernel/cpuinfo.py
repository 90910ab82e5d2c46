"""The CPU and the kernel by their own account: /proc/cpuinfo, uname, hypervisor hints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Register class -> the flag of /proc/cpuinfo without which the CPU, or its kernel, has none of it
# (arch/x86/include/asm/cpufeatures.h, Linux 7.3). "user_shstk" is the kernel's own flag: the CPU
# has shadow stacks and the kernel lets programs use them.
CLASS_FLAGS: dict[str, str] = {
    "xmm": "sse2", "ymm": "avx", "zmm": "avx512f", "opmask": "avx512f", "egpr": "apx",
    "ssp": "user_shstk",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What is known of the first CPU. Empty strings and None where the machine does not say.

    classes: register classes that programs can use here, in kernel.registers.CLASS_NAMES' words
    and order; "gpr" always.
    hypervisor: "" on bare metal as far as one can see, else a name or "unknown".
    """

    vendor: str
    model_name: str
    family: int | None
    model: int | None
    stepping: int | None
    flags: frozenset[str]
    machine: str
    kernel_release: str
    hypervisor: str

    @property
    def classes(self) -> tuple[str, ...]:
        return ("gpr", *(name for name, flag in CLASS_FLAGS.items() if flag in self.flags))

    @property
    def xen(self) -> bool:
        """Under Xen the kernel cannot tell a guest's or hypervisor's hit from its own."""
        return self.hypervisor == "xen"


def read_cpuinfo(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> CpuInfo:
    """The machine under `proc` and `sysfs`. Missing files are missing facts, not errors."""
    fields: dict[str, str] = {}
    for line in _text(proc / "cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            if fields:
                break  # the first CPU's block ends
            continue
        fields.setdefault(name.strip(), value.strip())
    flags = frozenset(fields.get("flags", "").split())
    names = os.uname()
    return CpuInfo(
        vendor=fields.get("vendor_id", ""), model_name=fields.get("model name", ""),
        family=_number(fields.get("cpu family")), model=_number(fields.get("model")),
        stepping=_number(fields.get("stepping")), flags=flags, machine=names.machine,
        kernel_release=_text(proc / "sys/kernel/osrelease").strip() or names.release,
        hypervisor=_hypervisor(flags, proc, sysfs),
    )  # fmt: skip


def _hypervisor(flags: frozenset[str], proc: Path, sysfs: Path) -> str:
    told = _text(sysfs / "hypervisor/type").strip()
    if told:
        return told
    if (proc / "xen").is_dir() and _text(proc / "xen/capabilities"):
        return "xen"
    if "hypervisor" not in flags:
        return ""
    # DMI names the maker of the virtual machine, where there is DMI at all.
    vendor = _text(sysfs / "class/dmi/id/sys_vendor").strip()
    return vendor or "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
