#!/usr/bin/env python3
"""False alarms of the code checks: programs stepped instruction by instruction, all of it true.

    python scripts/bench/steps.py [--stretches N] [--instructions N] [--json FILE]

Every boundary between two instructions is a snapshot whose registers are what they are. The code is
asked about each: how many it proves is told, and none may be contradicted. Programs that are not
installed are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from common import Row, parser, report  # noqa: E402

from perfxmm.coherence.witness.asking import Witness  # noqa: E402
from perfxmm.kernel.registers import GPR_ID  # noqa: E402
from perfxmm.program.places import Places  # noqa: E402
from perfxmm.program.timeline import Timeline  # noqa: E402
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch  # noqa: E402

HERE = Path(__file__).resolve().parent
# struct user_regs_struct, <sys/user.h> of glibc 2.36.
GENERAL = (
    "R15", "R14", "R13", "R12", "BP", "BX", "R11", "R10", "R9", "R8", "AX", "CX", "DX", "SI", "DI",
    "", "IP", "CS", "FLAGS", "SP", "SS",
)  # fmt: skip
GENERAL_WORDS, VECTOR_WORDS, MASK_WORDS = 27, 32 * 8, 8
RECORD_BYTES = 8 * (GENERAL_WORDS + VECTOR_WORDS + MASK_WORDS)
PAUSE_US = 3000


def programs(directory: Path) -> dict[str, list[str]]:
    """Commands that run for a while, by name."""
    noise = directory / "noise"
    noise.write_bytes(np.random.default_rng(1).bytes(1 << 24))
    found = {
        "python": [sys.executable, str(HERE.parent / "workload.py")],
        "openssl": ["openssl", "speed", "-seconds", "3", "-bytes", "8192", "sha256"],
        "xz": ["xz", "-9", "-k", "-c", str(noise)],
        "zstd": ["zstd", "-19", "-q", "--single-thread", "-c", str(noise)],
        "bzip2": ["bzip2", "-k", "-c", str(noise)],
        "perl": ["perl", "-e", 'for (1..3e8) { $h{$_ % 1000} = "x$_"; $s += sqrt($_) }'],
        "ls": ["ls", "-lR", "/usr"],
        "sort": ["sort", str(noise)],
    }
    if shutil.which("gcc"):
        loops = directory / "loops"
        subprocess.run(["gcc", "-O2", HERE / "loops.c", "-o", loops], check=True)
        found["loops"] = [str(loops), "1000000000"]
    return {name: command for name, command in found.items() if shutil.which(command[0])}


class Stepped:
    """One program's boundaries, asked about stretch by stretch."""

    def __init__(self) -> None:
        places = Places(same_machine=True, recorded_until_ns=time.time_ns() + 10**18)
        self._timeline = Timeline(places)
        self._witness = Witness(self._timeline)
        self._mapped: set[str] = set()
        self.boundaries = self.proved = self.contradicted = 0
        self.worst: set[tuple[str, int]] = set()

    def read_mappings(self, pid: int) -> None:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            parts = line.split(None, 5)
            if len(parts) < 6 or "x" not in parts[1] or parts[5][0] != "/" or line in self._mapped:
                continue
            self._mapped.add(line)
            start, end = (int(number, 16) for number in parts[0].split("-"))
            self._timeline.mmap(
                1, pid, pid, start, end - start, int(parts[2], 16), parts[5], prot=5,
                ino=int(parts[4]),
            )

    def ask(self, pid: int, words: npt.NDArray[np.uint64]) -> None:
        n = len(words)
        ids = tuple(sorted(GPR_ID[name] for name in GENERAL if name))
        column = {GPR_ID[name]: place for place, name in enumerate(GENERAL) if name}
        rest = words[:, GENERAL_WORDS:]
        registers = RegisterSet(
            "user", np.full(n, 6, np.uint8), ids, words[:, [column[number] for number in ids]],
            np.full(n, sum(1 << number for number in ids), np.uint64),
            rest[:, :VECTOR_WORDS].reshape(n, 32, 8), np.full(n, 0xFFFFFFFF, np.uint32),
            np.full(n, 32, np.uint8), np.full(n, 8, np.uint8), rest[:, VECTOR_WORDS:],
            np.full(n, 8, np.uint8), verdict=np.ones((n, 5), np.uint8),
            reason=np.zeros(n, np.uint64), predicate_mask=np.full(n, 0xFF, np.uint8),
        )  # fmt: skip
        ip = words[:, column[GPR_ID["IP"]]].copy()
        zero, own = np.zeros(n, np.int32), np.full(n, pid, np.int32)
        samples = SnapshotBatch(
            np.full(n, 2, np.uint64), ip, ip, own, own, zero, zero.astype(np.uint16),
            np.full(n, 2, np.uint16), np.full(n, 2, np.uint8), np.zeros(n, np.bool_),
            np.arange(n), zero.astype(np.uint32), {"user": registers},
        )  # fmt: skip
        found = self._timeline.resolve(samples.time_ns, own, own, ip, samples.cpumode)
        said = self._witness.testify(samples, registers, ip, found.dso, found.offset)
        self.boundaries += n
        self.proved += int(np.count_nonzero((said.proved != 0) & (said.contradicted == 0)))
        for row in np.flatnonzero(said.contradicted).tolist():
            self.contradicted += 1
            path = self._timeline.dsos[int(found.dso[row])].path
            self.worst.add((path, int(found.offset[row])))


def step(tracer: Path, command: list[str], stretches: int, instructions: int) -> Stepped:
    found = Stepped()
    read_end, write_end = os.pipe()

    def hand_over() -> None:
        os.dup2(write_end, 3)

    traced = subprocess.Popen(
        [tracer, str(stretches), str(instructions), str(PAUSE_US), *command],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=hand_over, pass_fds=(3,),
    )  # fmt: skip
    os.close(write_end)
    assert traced.stdin is not None
    assert traced.stderr is not None
    first = traced.stderr.readline()
    with os.fdopen(read_end, "rb", buffering=1 << 20) as records:
        stretch: list[bytes] = []
        while first.strip().isdigit() and len(one := records.read(RECORD_BYTES)) == RECORD_BYTES:
            if one != b"\xff" * RECORD_BYTES:
                stretch.append(one)
                continue
            found.read_mappings(int(first))
            if stretch:
                words = np.frombuffer(b"".join(stretch), np.uint64)
                found.ask(int(first), words.reshape(len(stretch), -1))
            stretch = []
            traced.stdin.write(b"\n")
            traced.stdin.flush()
    traced.stdin.close()
    traced.stderr.close()
    traced.wait()
    return found


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--stretches", type=int, default=25, help="of each program")
    options.add_argument("--instructions", type=int, default=4000, help="in a stretch")
    chosen = options.parse_args()
    rows, boundaries, proved, wrong = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tracer = directory / "steps"
        subprocess.run(["gcc", "-O2", HERE / "steps.c", "-o", tracer], check=True)
        for program, command in programs(directory).items():
            try:
                found = step(tracer, command, chosen.stretches, chosen.instructions)
            except (BrokenPipeError, FileNotFoundError):
                print(f"{program}: ended too early", file=sys.stderr)
                continue
            boundaries += found.boundaries
            proved += found.proved
            wrong += found.contradicted
            rows.append(Row(
                f"proved in {program}", 100 * found.proved / max(1, found.boundaries), "%",
                note=f"of {found.boundaries:,}",
            ))  # fmt: skip
            for path, offset in sorted(found.worst):
                print(f"contradicted: {path} at file offset {offset:#x}", file=sys.stderr)
    rows += [
        Row("instruction boundaries, all true", boundaries, "", at_least=1),
        Row("proved by the code", proved, ""),
        Row("contradicted", wrong, "", at_most=0),
    ]
    return report("steps", rows, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
