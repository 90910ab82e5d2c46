"""One run: an emulator, a kernel, a plan; what came out as files, and what the kernel log says."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .build import KMOD, Built, build, content_key, sources_of
from .emulators import Bochs, Ended, Guest, Qemu
from .guestpython import add_perfxmm, python_archive, site_packages
from .image import Archive, base_archive
from .kernels import KERNELS, Boot, boot_of
from .packages import Place, cache_folder
from .plan import INIT, Wishes, holders, script
from .roots import make_root
from .trouble import Trouble
from .wire import unframe

GUEST_PLACE = Place("guest", ("bookworm", "bookworm-security"))
GUEST_PACKAGES = ("linux-perf", "busybox-static")

COMPLAINTS = re.compile(
    r"WARNING:|BUG:|Oops|general protection|Call Trace|lockdep|KASAN|UBSAN|unknown reason|"
    r"soft lockup|hard LOCKUP|rcu.*stall|suspicious RCU|possible .*(lock|deadlock)|"
    r"INFO: trying to register|DEBUG_LOCKS_WARN|ODEBUG",
)
# QEMU's translator now and then runs into a breakpoint of the kernel's own code patching while it
# boots on two processors. Such a boot says nothing of the module: it is tried again, and counted.
FALSE_STARTS = 2
BEGINS = b"room: begins"


@dataclass(frozen=True)
class Outcome:
    """One run's results.

    module: which sources it was built from, by content. complaints: lines of the kernel log that
    should not be there. false_starts: boots that died in the emulator before the guest's init
    began, with nothing of ours loaded.
    """

    emulator: str
    emulator_version: str
    model: str
    series: str
    release: str
    module: str
    work: Path
    files: dict[str, bytes]
    complaints: tuple[str, ...]
    warnings: tuple[str, ...]
    ended: Ended
    false_starts: int = 0


def guest_base(refresh: bool = False) -> Path:
    """The part of the guest's file system that every run shares, kept in the cache."""
    root = make_root("guest", GUEST_PLACE, GUEST_PACKAGES, refresh=refresh)
    key = content_key([Path(__file__).with_name("image.py")])
    target = cache_folder() / "built" / f"base-{key}.cpio"
    if not target.exists() or refresh:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base_archive(root))
    return target


def python_base(refresh: bool = False) -> Path:
    """Python and perfxmm's dependencies for the guest, kept in the cache."""
    root = make_root("guest", GUEST_PLACE, GUEST_PACKAGES)
    site = site_packages(refresh)
    key = content_key([Path(__file__).with_name("guestpython.py")], site.name)
    target = cache_folder() / "built" / f"python-{key}.cpio"
    if not target.exists() or refresh:
        target.write_bytes(python_archive(root))
    return target


def plan_archive(built: Built, wishes: Wishes) -> bytes:
    """What is new in each run: the plan, the modules, the programs."""
    archive = Archive()
    archive.file("init", INIT.encode(), 0o755)
    archive.file("room/plan", script(wishes).encode())
    archive.file("room/holders", holders(wishes).encode(), 0o755)
    for name, path in built.programs.items():
        archive.file(f"room/{name}", path.read_bytes(), 0o755)
    for name, path in built.modules.items():
        archive.file(f"room/{name}.ko", path.read_bytes())
    if wishes.recorder == "perfxmm":
        add_perfxmm(archive)
    return archive.bytes()


def prepare(series: str, refresh: bool = False) -> tuple[Boot, Built]:
    """Kernel and programs of a series, fetched and built where they are not cached."""
    kernel = KERNELS[series]
    root = kernel.root(refresh)
    boot = boot_of(kernel, root)
    return boot, build(kernel, root, boot)


def run(emulator: Qemu | Bochs, series: str, wishes: Wishes, work: Path, *, model: str = "",
        timeout_s: float = 600, refresh: bool = False) -> Outcome:
    """Boot, run the plan, bring the files out.

    Raises:
        Trouble: the guest did not come to its end; the message carries the console's last lines.
    """
    boot, built = prepare(series, refresh)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    plan = work / "plan.cpio"
    plan.write_bytes(plan_archive(built, wishes))
    initrds = [guest_base(refresh), plan]
    memory_mb = 768
    if wishes.recorder == "perfxmm":
        initrds.insert(1, python_base(refresh))
        memory_mb = 1536
    guest = Guest(
        work, boot.image, initrds,
        "console=ttyS0 rdinit=/init panic=-1 quiet loglevel=4 mitigations=off nokaslr "
        "cryptomgr.notests",
        model or emulator.models[0], memory_mb=memory_mb)
    for false_starts in range(FALSE_STARTS + 1):
        for name in ("out.bin", "console.txt"):
            (work / name).unlink(missing_ok=True)
        ended = emulator.run(guest, timeout_s)
        if BEGINS in _read(work / "console.txt") or false_starts == FALSE_STARTS:
            break
    received = unframe(_read(work / "out.bin"))
    for name, body in received.files.items():
        path = work / Path(name).name
        path.touch(0o600)
        path.write_bytes(body)
    if not received.ended or received.damaged:
        said = _read(work / "console.txt")[-2500:].decode("utf-8", "replace")
        raise Trouble(
            f"{emulator.name}, kernel {boot.release}: the guest did not come to its end "
            f"({'ended after the time limit' if ended.timed_out else 'it stopped'} at "
            f"{ended.seconds:.0f} s; damaged: {', '.join(received.damaged) or 'none'}). "
            f"Console, last lines:\n{said}\n{ended.said}")
    if "perf.data" not in received.files:
        said = b"".join(received.files.get(name, b"")[-1500:] for name in
                        ("perf.txt", "perfxmm.txt", "trouble.txt")).decode("utf-8", "replace")
        raise Trouble(f"{emulator.name}, kernel {boot.release}: nothing was recorded. The guest "
                      f"said:\n{said}")
    log = received.files.get("dmesg.txt", b"").decode("utf-8", "replace")
    return Outcome(
        emulator.name, emulator.version(), guest.model, series, boot.release,
        content_key(sources_of(KMOD)), work, received.files,
        tuple(line.strip() for line in log.splitlines() if COMPLAINTS.search(line)),
        built.warnings, ended, false_starts)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
