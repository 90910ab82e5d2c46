"""What the harnesses share: where the code is, bounds for one execution, and the fuzzer's start."""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _place in (ROOT, ROOT / "tests"):
    if str(_place) not in sys.path:
        sys.path.insert(0, str(_place))

import atheris  # noqa: E402

# One execution may not need more than this beyond what the process had before the first one:
# asking for more ends as MemoryError, which is a finding. The targets' stated bounds are smaller
# for inputs of a harness's size; what is added is the fuzzer's own growth.
MOST_MORE_BYTES = 1 << 30
Target = Callable[[bytes], object]


def start(
    target: Target, mutator: Callable[[bytes, int, int], bytes] | None = None, *,
    own_share: int = 4,
) -> None:
    """Runs libFuzzer over `target` with the command line's arguments; does not return.

    mutator: (input, most bytes, seed) -> input. own_share: of so many mutations one is libFuzzer's
    own.
    """
    faulthandler.enable()
    if "TMPDIR" not in os.environ and Path("/dev/shm").is_dir():
        tempfile.tempdir = "/dev/shm"  # temporary copies of a few KB: no disk for that
    target(b"")
    limit = _mapped_bytes() + MOST_MORE_BYTES

    def one_input(data: bytes) -> None:
        target(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        if mutator is None or seed % own_share == 0:
            return bytes(atheris.Mutate(data, most))
        return mutator(data, most, seed)

    options = {"custom_mutator": change} if mutator is not None else {}
    atheris.Setup(sys.argv, one_input, **options)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Fuzz()


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
