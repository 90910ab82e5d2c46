"""Names that perf events have everywhere, and the numbers behind them.

Numbers: include/uapi/linux/perf_event.h (perf_hw_id, perf_sw_ids, perf_hw_cache_*), Linux 7.3.
Names: tools/perf/Documentation/perf-list.txt and what `perf list` prints, Linux 6.1 to 7.3.
"""

from __future__ import annotations

HARDWARE: dict[str, int] = {
    "cycles": 0, "cpu-cycles": 0,
    "instructions": 1,
    "cache-references": 2,
    "cache-misses": 3,
    "branches": 4, "branch-instructions": 4,
    "branch-misses": 5,
    "bus-cycles": 6,
    "stalled-cycles-frontend": 7, "idle-cycles-frontend": 7,
    "stalled-cycles-backend": 8, "idle-cycles-backend": 8,
    "ref-cycles": 9,
}  # fmt: skip

SOFTWARE: dict[str, int] = {
    "cpu-clock": 0,
    "task-clock": 1,
    "page-faults": 2, "faults": 2,
    "context-switches": 3, "cs": 3,
    "cpu-migrations": 4, "migrations": 4,
    "minor-faults": 5,
    "major-faults": 6,
    "alignment-faults": 7,
    "emulation-faults": 8,
    "dummy": 9,
    "bpf-output": 10,
    "cgroup-switches": 11,
}  # fmt: skip

LOAD, STORE, PREFETCH = 0, 1, 2

# Cache -> (number, operations it has), the spelling `perf list` prints first.
CACHES: dict[str, tuple[int, tuple[int, ...]]] = {
    "L1-dcache": (0, (LOAD, STORE, PREFETCH)),
    "L1-icache": (1, (LOAD, PREFETCH)),
    "LLC": (2, (LOAD, STORE, PREFETCH)),
    "dTLB": (3, (LOAD, STORE, PREFETCH)),
    "iTLB": (4, (LOAD,)),
    "branch": (5, (LOAD,)),
    "node": (6, (LOAD, STORE, PREFETCH)),
}
CACHE_ALIASES: dict[str, str] = {
    "l1-d": "L1-dcache", "l1d": "L1-dcache", "l1-data": "L1-dcache",
    "l1-i": "L1-icache", "l1i": "L1-icache", "l1-instruction": "L1-icache",
    "l2": "LLC",
    "d-tlb": "dTLB", "data-tlb": "dTLB",
    "i-tlb": "iTLB", "instruction-tlb": "iTLB",
    "branches": "branch", "bpu": "branch", "btb": "branch", "bpc": "branch",
}  # fmt: skip
CACHE_OPERATIONS: dict[str, int] = {
    "load": LOAD, "loads": LOAD, "read": LOAD,
    "store": STORE, "stores": STORE, "write": STORE,
    "prefetch": PREFETCH, "prefetches": PREFETCH,
    "speculative-read": PREFETCH, "speculative-load": PREFETCH,
}  # fmt: skip
CACHE_RESULTS: dict[str, int] = {
    "refs": 0, "reference": 0, "ops": 0, "access": 0,
    "misses": 1, "miss": 1,
}  # fmt: skip

# What a sampled event needs no PMU for.
WITHOUT_PMU = ("task-clock", "cpu-clock")


def cache_config(name: str) -> int | None:
    """config of a hardware cache event such as "L1-dcache-load-misses"; None if it is not one.

    Case does not matter, operation and result may come in either order, and default to loads and
    references. Combinations that perf does not offer (storing to an iTLB) are not one either.
    """
    lowered = name.lower()
    spellings = {cache.lower(): cache for cache in CACHES} | CACHE_ALIASES
    for spelling in sorted(spellings, key=len, reverse=True):
        if lowered != spelling and not lowered.startswith(spelling + "-"):
            continue
        number, operations = CACHES[spellings[spelling]]
        parsed = _operation_and_result(lowered[len(spelling) + 1 :])
        if parsed is None or parsed[0] not in operations:
            return None
        return number | parsed[0] << 8 | parsed[1] << 16
    return None


def cache_names() -> list[str]:
    """Every cache event in the spelling that `perf list` prints."""
    names = []
    for cache, (_, operations) in CACHES.items():
        for operation in operations:
            word = ("load", "store", "prefetch")[operation]
            plural = ("loads", "stores", "prefetches")[operation]
            names += [f"{cache}-{plural}", f"{cache}-{word}-misses"]
    return names


def _operation_and_result(text: str) -> tuple[int, int] | None:
    operation: int | None = None
    result: int | None = None
    while text:
        for word in sorted((*CACHE_OPERATIONS, *CACHE_RESULTS), key=len, reverse=True):
            if text == word or text.startswith(word + "-"):
                break
        else:
            return None
        if word in CACHE_OPERATIONS and operation is None:
            operation = CACHE_OPERATIONS[word]
        elif word in CACHE_RESULTS and result is None:
            result = CACHE_RESULTS[word]
        else:
            return None
        text = text[len(word) + 1 :]
    return (LOAD if operation is None else operation, result or 0)
