"""The fixed parts of perf.data, shared by reader and writer.

Source: tools/perf/util/header.h and tools/perf/Documentation/perf.data-file-format.txt,
Linux 7.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"PERFILE2"
MAGIC_SWAPPED = MAGIC[::-1]  # written on a big-endian machine
# Until Linux 3.3, and the same in both byte orders: the size of an attr entry tells which it is.
MAGIC_OLD = b"PERFFILE"
# magic, header size, attr entry size, then offset and size of attrs, data and event types, and
# the feature bitmap.
FILE_HEADER = struct.Struct("<8s8Q32s")
FILE_HEADER_BYTES = 104
# The first perf.data files end before the bitmap.
SHORT_HEADER_BYTES = 72
PIPE_HEADER_BYTES = 16
SECTION = struct.Struct("<QQ")
# struct perf_trace_event_type: u64 event id, then a name. Entries of the event types section.
EVENT_TYPE_NAME_BYTES = 64
# data.size: from here to its end the header is patched when the recording is finished.
DATA_SIZE_AT = 48
FEATURE_BITS = 256
NAME_ALIGN = 64  # strings of features are padded to this


class Feature(IntEnum):
    """HEADER_*: bit numbers of the feature bitmap."""

    TRACING_DATA = 1
    BUILD_ID = 2
    HOSTNAME = 3
    OSRELEASE = 4
    VERSION = 5
    ARCH = 6
    NRCPUS = 7
    CPUDESC = 8
    CPUID = 9
    TOTAL_MEM = 10
    CMDLINE = 11
    EVENT_DESC = 12
    CPU_TOPOLOGY = 13
    NUMA_TOPOLOGY = 14
    BRANCH_STACK = 15
    PMU_MAPPINGS = 16
    GROUP_DESC = 17
    AUXTRACE = 18
    STAT = 19
    CACHE = 20
    SAMPLE_TIME = 21
    MEM_TOPOLOGY = 22
    CLOCKID = 23
    DIR_FORMAT = 24
    BPF_PROG_INFO = 25
    BPF_BTF = 26
    COMPRESSED = 27
    CPU_PMU_CAPS = 28
    CLOCK_DATA = 29
    HYBRID_TOPOLOGY = 30
    PMU_CAPS = 31
    CPU_DOMAIN_INFO = 32
    E_MACHINE = 33
    CLN_SIZE = 34


@dataclass(frozen=True, slots=True)
class BuildId:
    """One entry of the build id feature: what DSO `path` was. pid is -1 on the host."""

    path: str
    build_id: bytes
    pid: int = -1
    kernel: bool = False
