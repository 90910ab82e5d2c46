"""A kernel that watches itself: lockdep, KASAN and sleeping in atomic context, built from source.

Debian has none. It is small (no network, no disks, no file systems beyond memory), so that it
builds in some minutes on two CPUs, and it is of the same source as the cloud image of 6.1.
"""

from __future__ import annotations

from pathlib import Path

from .packages import cache_folder
from .roots import Root
from .trouble import Trouble

SOURCE = "linux-source-6.1"
TREE = "usr/src/linux-debug"
TOOLS = ("libelf1", "libelf-dev", "zlib1g", "flex", "bison", "bc", "tar", "xz-utils", "perl-base",
         "bzip2", "gzip")

# Kconfig symbols on top of `make allnoconfig`; what they select comes by itself.
ON = (
    "64BIT", "SMP", "PRINTK", "BUG", "TTY", "SERIAL_8250", "SERIAL_8250_CONSOLE",
    "BLK_DEV_INITRD", "BINFMT_ELF", "BINFMT_SCRIPT", "PROC_FS", "PROC_SYSCTL", "SYSFS",
    "DEVTMPFS", "TMPFS", "SHMEM", "MODULES", "MODULE_UNLOAD", "PERF_EVENTS", "FTRACE",
    "ENABLE_DEFAULT_TRACERS", "DEBUG_FS", "X86_IOPL_IOPERM", "FUTEX", "POSIX_TIMERS", "EPOLL",
    "EVENTFD", "SIGNALFD", "TIMERFD", "AIO", "ADVISE_SYSCALLS", "MEMBARRIER", "MULTIUSER",
    "HIGH_RES_TIMERS", "NO_HZ_IDLE", "ACPI", "PCI", "PNP", "X86_X2APIC", "HOTPLUG_CPU",
    "SUSPEND", "PM_SLEEP", "KALLSYMS", "KALLSYMS_ALL", "PREEMPT", "DEBUG_KERNEL",
    "PROVE_LOCKING", "DEBUG_LOCK_ALLOC", "DEBUG_ATOMIC_SLEEP", "KASAN", "KASAN_GENERIC",
    "KASAN_OUTLINE", "STACKTRACE", "FRAME_POINTER", "UNWINDER_FRAME_POINTER", "DEBUG_LIST",
    "DEBUG_PREEMPT", "SCHED_STACK_END_CHECK", "DETECT_HUNG_TASK", "SOFTLOCKUP_DETECTOR",
    "RCU_EXPERT", "PROVE_RCU", "X86_MSR", "CPU_SUP_INTEL", "CPU_SUP_AMD", "PROCESSOR_SELECT",
    "DEBUG_OBJECTS", "DEBUG_OBJECTS_TIMERS", "DEBUG_OBJECTS_FREE", "EXPERT", "UNIX98_PTYS",
    "CROSS_MEMORY_ATTACH", "X86_UMIP", "MTRR", "X86_PAT", "UNIX", "NET", "SECCOMP", "SYSVIPC",
    "FILE_LOCKING", "INOTIFY_USER", "RELOCATABLE", "PARAVIRT_CLOCK", "CGROUPS",
)
MUST_BE_ON = ("PROVE_LOCKING", "KASAN_GENERIC", "DEBUG_ATOMIC_SLEEP", "TRACEPOINTS", "PERF_EVENTS",
              "MODULES", "SERIAL_8250_CONSOLE", "BLK_DEV_INITRD")


def build(root: Root, compiler: str) -> None:
    """Configure and build below TREE of the root, once.

    Raises:
        Trouble: with the end of the output, or a switch that Kconfig did not take.
    """
    tree = root.folder / TREE
    if (tree / ".built").exists():
        return
    logs = cache_folder() / "built"
    logs.mkdir(parents=True, exist_ok=True)
    tree.mkdir(parents=True, exist_ok=True)
    archive = f"/usr/src/{SOURCE}.tar.xz"
    root.check(["tar", "-xf", archive, "-C", f"/{TREE}", "--strip-components=1"], "unpacking",
               nice=10)
    make = ["make", "-C", f"/{TREE}", f"CC={compiler}", f"HOSTCC={compiler}"]
    (tree / "wanted").write_text("".join(f"CONFIG_{name}=y\n" for name in ON))
    root.check([*make, "KCONFIG_ALLCONFIG=wanted", "allnoconfig"], "configuring", nice=10)
    config = (tree / ".config").read_text()
    missing = [name for name in MUST_BE_ON if f"CONFIG_{name}=y\n" not in config]
    if missing:
        raise Trouble(f"the watching kernel was configured without {', '.join(missing)}")
    root.check([*make, "-j2", "bzImage", "modules"], "building the watching kernel", nice=10,
               log=logs / "debug-kernel.log")
    (tree / ".built").touch()


def release(root: Root) -> tuple[str, Path]:
    """(uname -r, image) of the built kernel."""
    tree = root.folder / TREE
    return ((tree / "include/config/kernel.release").read_text().strip(),
            tree / "arch/x86/boot/bzImage")
