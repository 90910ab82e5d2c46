"""QEMU and Bochs: where they come from and how a guest is started in them.

QEMU's TCG has AVX2 and XSAVE but no XSAVES and no AVX-512; Bochs has both and models whole
processors. Neither needs KVM, and the guest gets no network.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .image import iso
from .packages import Place, cache_folder
from .roots import Root, make_root
from .trouble import Trouble

BOOKWORM = ("bookworm", "bookworm-security")

BOCHS_SWITCHES = (
    "--enable-cpu-level=6", "--enable-x86-64", "--enable-avx", "--enable-evex", "--enable-amx",
    "--enable-cet", "--enable-protection-keys", "--enable-pci", "--enable-cdrom", "--enable-smp",
    "--enable-all-optimizations", "--enable-long-phy-address", "--with-nogui", "--with-rfb",
    "--disable-debugger", "--disable-debugger-gui", "--disable-readline", "--disable-docbook",
)
BOCHS_VERSION = "3.0"   # 2.7 enumerates CPUID leaf 0xD wrongly, kernels oops in 3.1
INSTRUCTIONS_PER_SECOND = 50_000_000

# What is changed in Bochs' source before it is built: (file, old, new).
BOCHS_CHANGES = (
    # Every byte of port 0xe9 would be a system call of its own; the guest sends a filler behind.
    ("iodev/unmapped.cc", "        fflush(stdout);\n", ""),
    # In a compacted image a component's place follows from XCOMP_BV alone, whatever XRSTORS is
    # asked to restore (SDM volume 1, section 13.4.3). Bochs 3.0 forgets components it was not
    # asked for: Linux leaves PKRU out, and every context switch lost the shadow stack behind it.
    ("cpu/xsave.cc", """
        if (format & feature_mask)
          offset += xsave_restore[feature].len;
      }
    }
  }
  else {
""", """      }

      if (format & feature_mask)
        offset += xsave_restore[feature].len;
    }
  }
  else {
"""),
)


@dataclass(frozen=True)
class Ended:
    """How a guest ended. seconds: on the host's clock. timed_out: it was ended by the room."""

    seconds: float
    timed_out: bool
    said: str


@dataclass(frozen=True)
class Guest:
    """What is started: files in `work`, which also receives console.txt and out.bin."""

    work: Path
    kernel: Path
    initrds: Sequence[Path]
    arguments: str
    model: str
    cpus: int = 2
    memory_mb: int = 768
    nice: int = 5


class Qemu:
    """QEMU from Debian 12, translating (TCG)."""

    name = "qemu"
    models = ("max",)

    def __init__(self, refresh: bool = False) -> None:
        self.root = make_root("qemu", Place("qemu", BOOKWORM),
                              ("qemu-system-x86", "coreutils", "dash"), refresh=refresh)

    def version(self) -> str:
        done = self.root.run(["qemu-system-x86_64", "--version"])
        found = re.search(rb"version (\S+)", done.stdout)
        return found[1].decode() if found else "unknown"

    def run(self, guest: Guest, timeout_s: float) -> Ended:
        initrd = guest.work / "initrd"
        with initrd.open("wb") as file:
            for part in guest.initrds:
                file.write(part.read_bytes())
        shutil.copy(guest.kernel, guest.work / "linux")
        words = [
            "qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi",
            "-cpu", guest.model, "-smp", str(guest.cpus), "-m", str(guest.memory_mb),
            "-nodefaults", "-no-reboot", "-display", "none", "-net", "none",
            "-kernel", "/room/linux", "-initrd", "/room/initrd",
            "-append", guest.arguments, "-serial", "file:/room/console.txt",
            "-chardev", "file,id=out,path=/room/out.bin",
            "-device", "isa-debugcon,iobase=0xe9,chardev=out",
        ]
        return _timed(self.root, words, guest, timeout_s, guest.work / "emulator.txt")


class Bochs:
    """Bochs 3.0, built once from Debian's source package without its debugger."""

    name = "bochs"
    models = ("corei7_skylake_x", "tigerlake")

    def __init__(self, refresh: bool = False) -> None:
        self.place = Place("bochs", ("trixie",))
        self.root = make_root(
            "bochs", self.place,
            ("g++", "make", "dash", "coreutils", "sed", "grep", "gawk", "findutils", "diffutils",
             "bochsbios", "vgabios", "isolinux", "syslinux-common", "xorriso"), refresh=refresh)
        self.program = self._build()

    def version(self) -> str:
        return BOCHS_VERSION

    def _build(self) -> Path:
        recipe = repr((BOCHS_SWITCHES, BOCHS_CHANGES)).encode()
        key = hashlib.sha256(recipe).hexdigest()[:12]
        work = cache_folder() / "built" / f"bochs-{BOCHS_VERSION}-{key}"
        program = work / "src" / "bochs"
        if (work / ".complete").exists():
            return program
        shutil.rmtree(work, ignore_errors=True)
        self.place.update()
        tar = self.place.source("bochs", work)
        if not tar.name.startswith(f"bochs_{BOCHS_VERSION}"):
            raise Trouble(f"trixie now carries {tar.name}; the room was tried with Bochs "
                          f"{BOCHS_VERSION}")
        (work / "src").mkdir()
        subprocess.run(["tar", "-xf", tar, "-C", work / "src", "--strip-components=1"],
                       check=True)
        for name, old, new in BOCHS_CHANGES:
            source = work / "src" / name
            text = source.read_text()
            if text.count(old) != 1:
                raise Trouble(f"{source}: the passage to change is there {text.count(old)} times")
            source.write_text(text.replace(old, new))
        options = {"bind": {work / "src": "/room"}, "cwd": "/room", "nice": 10}
        flags = {"CFLAGS": "-O3 -g0", "CXXFLAGS": "-O3 -g0 -fno-strict-aliasing"}
        self.root.check(["./configure", *BOCHS_SWITCHES], "configuring Bochs", env=flags,
                        log=work / "configure.log", **options)
        self.root.check(["make", "-j2"], "building Bochs", log=work / "make.log", **options)
        (work / ".complete").touch()
        return program

    def settings(self, guest: Guest) -> str:
        """The bochsrc of a guest."""
        return "\n".join([
            f"cpu: model={guest.model}, count={guest.cpus}, ips={INSTRUCTIONS_PER_SECOND}, "
            "reset_on_triple_fault=0",
            f"memory: guest={guest.memory_mb}, host={guest.memory_mb}",
            "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
            "vgaromimage: file=/usr/share/vgabios/vgabios.bin",
            "boot: cdrom",
            "ata0-master: type=cdrom, path=/room/boot.iso, status=inserted",
            "com1: enabled=1, mode=file, dev=/room/console.txt",
            "port_e9_hack: enabled=1",
            "display_library: nogui",
            "clock: sync=none",
            "log: /room/bochs.log",
            "panic: action=fatal", "error: action=report", "info: action=ignore",
        ]) + "\n"

    def run(self, guest: Guest, timeout_s: float) -> Ended:
        # idle=halt: an idle processor in MWAIT misses now and then that another wrote to what it
        # watches, and then the other waits for it for ever.
        iso(self.root, guest.work, guest.kernel, guest.initrds,
            f"{guest.arguments} tsc_early_khz={INSTRUCTIONS_PER_SECOND // 1000} idle=halt")
        (guest.work / "bochsrc").write_text(self.settings(guest))
        binds = {self.program.parent: "/bochs"}
        return _timed(self.root, ["/bochs/bochs", "-q", "-f", "/room/bochsrc"], guest, timeout_s,
                      guest.work / "out.bin", binds)


EMULATORS = {"qemu": Qemu, "bochs": Bochs}


def _timed(root: Root, words: Sequence[str], guest: Guest, timeout_s: float, log: Path,
           binds: dict[Path, str] | None = None) -> Ended:
    start = time.monotonic()
    late = False
    try:
        root.run(words, bind={guest.work: "/room", **(binds or {})}, nice=guest.nice, log=log,
                 timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        late = True
    said = log.read_bytes()[-2000:].decode("utf-8", "replace") if log.name == "emulator.txt" else ""
    return Ended(time.monotonic() - start, late, said)
