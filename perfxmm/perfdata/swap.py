"""Recordings made on big-endian machines: their records rewritten as a little-endian machine's.

Records keep their size and their place, so that offsets stay those of the file. What is not a
number stays as it is: names, RAW payloads, copies of the user stack, AUX data, and features inside
HEADER_FEATURE, which `features` decodes in the recording's byte order. Where a header makes no
sense all is copied as it is up to where records begin again; the scan of the result says what is
wrong and where.

Which fields there are: include/uapi/linux/perf_event.h and tools/lib/perf/include/perf/event.h,
Linux 7.3. Of BPF_METADATA and SCHEDSTAT_* and of unknown types only header and trailer are
rewritten: nothing reads more.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel import dialects
from perfxmm.kernel.attr import ATTR_SIZE_VER0, BASE_FIELDS, FIELD_BYTES, EventAttr
from perfxmm.kernel.constants import MISC_MMAP_BUILD_ID, PRECISE_IP_MASK, RecordType
from perfxmm.kernel.layout import FieldKind, LayoutPlan, SetPlan, plan_layout
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.expand import COMPRESSED_TYPES, Stream
from perfxmm.perfdata.origins import Origins
from perfxmm.perfdata.resync import Resync
from perfxmm.perfdata.source import Mapped, spool_error

_CHUNK_BYTES = 4 << 20
_HEADER_BYTES = 8
_BIG_HEADER, _LITTLE_HEADER = struct.Struct(">IHH"), struct.Struct("<IHH")
_FIRST_TOOL_TYPE = 64
_MOST_IDS, _MOST_PLANS = 1 << 20, 1 << 14
_FLAGS_AT = 40
# Where SIMD fields begin in R2, and end in every dialect (kernel.dialects).
_SIMD_AT, _SIMD_END = 136, 176
# struct perf_branch_entry: widths of its flags, first one first (UAPI header, Linux 7.3).
_BRANCH_FLAGS = (1, 1, 1, 1, 16, 4, 2, 4, 3, 31)
_BRANCH_WORDS = 3
# No protection is as large; a path cannot begin with a smaller number (see mmap2_has_protection).
_NO_PROTECTION = 0x20

_TOO_LONG = 1 << 32

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Type -> the numbers that it begins with, as struct has them.
_BEGINS: dict[int, str] = {
    RecordType.MMAP: "IIQQQ", RecordType.LOST: "QQ", RecordType.COMM: "II",
    RecordType.EXIT: "IIIIQ", RecordType.FORK: "IIIIQ", RecordType.THROTTLE: "QQQ",
    RecordType.UNTHROTTLE: "QQQ", RecordType.READ: "II", RecordType.AUX: "QQQ",
    RecordType.ITRACE_START: "II", RecordType.LOST_SAMPLES: "Q",
    RecordType.SWITCH_CPU_WIDE: "II", RecordType.NAMESPACES: "IIQ", RecordType.KSYMBOL: "QIHH",
    RecordType.BPF_EVENT: "HHI", RecordType.CGROUP: "Q", RecordType.TEXT_POKE: "QHH",
    RecordType.AUX_OUTPUT_HW_ID: "Q", RecordType.HEADER_EVENT_TYPE: "Q",
    RecordType.HEADER_TRACING_DATA: "I", RecordType.HEADER_BUILD_ID: "I",
    RecordType.AUXTRACE_INFO: "II", RecordType.AUXTRACE: "QQQIIII",
    RecordType.THREAD_MAP: "Q", RecordType.STAT: "QIIQQQ", RecordType.STAT_ROUND: "QQ",
    RecordType.TIME_CONV: "QQQQQ", RecordType.HEADER_FEATURE: "Q", RecordType.COMPRESSED2: "Q",
}  # fmt: skip
# What follows is u64 numbers to the end (or to the trailer).
_WORDS_FOLLOW = (
    RecordType.READ, RecordType.NAMESPACES, RecordType.CALLCHAIN_DEFERRED, RecordType.ID_INDEX,
    RecordType.AUXTRACE_INFO, RecordType.STAT_CONFIG,
)  # fmt: skip
_EVENT_UPDATE_SCALE, _EVENT_UPDATE_CPUS = 1, 3


@dataclass(slots=True)
class Normalised:
    """Little-endian records. At the offsets that they have in the file where `origins` is None.

    packed: compressed records by type, which were unpacked and left out.
    """

    data: Mapped
    origins: Origins | None
    packed: Counter[int]


def normalise(
    data: Mapped, begin: int, end: int, events: Iterable[tuple[EventAttr, Sequence[int]]],
    report: Callable[[Damage], None],
) -> Normalised:
    """data[begin:end], records of a big-endian machine, with all numbers little-endian.

    The result too begins at `begin`. events: those that the header names, with their ids;
    HEADER_ATTR adds to them. `report` gets the first compressed record that cannot be unpacked.
    Raises PerfxmmError where there is no room for the temporary file.
    """
    with tempfile.TemporaryFile(prefix="perfxmm-") as spool:
        job = _Job(data, end, spool, Swapper(events), Stream(report, ">"))
        try:
            spool.seek(begin)
            job.run(begin)
            spool.flush()
            spool.truncate(max(spool.tell(), 1))
        except OSError as error:
            raise spool_error(error) from error
        if job.stream.rest and not job.stream.broken:
            left = len(job.stream.rest)
            report(Damage(end, f"{left} bytes of an unfinished record are left"))
        made = Mapped(spool.fileno(), os.fstat(spool.fileno()).st_size)
        return Normalised(made, job.origins if job.packed else None, job.packed)


class _Job:
    def __init__(
        self, data: Mapped, end: int, spool: BinaryIO, swapper: Swapper, stream: Stream
    ) -> None:
        self.data, self.end, self.spool = data, end, spool
        self.swapper, self.stream = swapper, stream
        self.search = Resync(data.view, end, big=True)
        self.origins = Origins()
        self.packed: Counter[int] = Counter()

    def run(self, at: int) -> None:
        while at < self.end:
            after = self._unpack(at)
            if after is None:
                after = self._swap(at)
            self.data.release(at, after)
            at = after

    def _unpack(self, at: int) -> int | None:
        """The compressed record at `at`; None where it is something else."""
        front = self.data[at : min(at + _HEADER_BYTES, self.end)]
        if len(front) < _HEADER_BYTES:
            return None
        kind, misc, size = (int(number) for number in _BIG_HEADER.unpack(front))
        if kind not in COMPRESSED_TYPES or size < _HEADER_BYTES or at + size > self.end:
            return None
        body = self.swapper.body(kind, misc, self.data[at + _HEADER_BYTES : at + size])
        self.packed[kind] += 1
        self.origins.add(self.spool.tell(), at, copied=False)
        record = _LITTLE_HEADER.pack(kind, misc, size) + body
        for records in self.stream.feed(kind, record, at):
            plain = bytearray(records)
            self.swapper.swap(plain, last=True)
            self.spool.write(plain)
        return at + size

    def _swap(self, at: int) -> int:
        """Plain records from `at` on, and the payload behind the last."""
        self.origins.add(self.spool.tell(), at, copied=True)
        chunk = bytearray(self.data[at : min(at + _CHUNK_BYTES, self.end)])
        done, payload = self.swapper.swap(chunk, last=at + len(chunk) >= self.end)
        if payload is None:
            # What follows cannot be understood. The scan of the result tells of it.
            found = self.search.find(at + done, 2)
            until = self.end if found is None else found
            if found is not None and done >= _HEADER_BYTES:
                # Its header stays as it was, too: nobody may take what stays for numbers.
                head = at + done - _HEADER_BYTES
                if head + int.from_bytes(chunk[done - 2 : done], "little") > self.end:
                    chunk[done - _HEADER_BYTES : done] = self.data[head : at + done]
        else:
            until = min(at + done + payload, self.end)
        self.spool.write(memoryview(chunk)[:done])
        at += done
        for place in range(at, until, _CHUNK_BYTES):
            self.spool.write(self.data[place : min(place + _CHUNK_BYTES, until)])
        return until


def swap_attr(data: bytes) -> bytes:
    """A perf_event_attr with its known fields little-endian; bytes beyond them, and beyond the
    size that it claims, stay.
    """
    out = bytearray(data)
    claimed = int.from_bytes(data[4:8], "big") or ATTR_SIZE_VER0
    for at, kind in (*BASE_FIELDS.values(), (4, "I")):
        size = FIELD_BYTES[kind]
        if at + size <= min(len(data), max(claimed, ATTR_SIZE_VER0)):
            out[at : at + size] = data[at : at + size][::-1]
    word = data[_FLAGS_AT : _FLAGS_AT + 8]
    if len(word) == 8:
        # Bit fields begin at the other end of the word there.
        flags = int(f"{int.from_bytes(word, 'big'):064b}"[::-1], 2)
        # precise_ip has two bits, whose order is that of the number.
        low, high = flags >> 15 & 1, flags >> 16 & 1
        flags = flags & ~PRECISE_IP_MASK | high << 15 | low << 16
        out[_FLAGS_AT : _FLAGS_AT + 8] = flags.to_bytes(8, "little")
    return _swap_simd(data, bytes(out))


def _swap_simd(data: bytes, swapped: bytes) -> bytes:
    """`swapped` with the SIMD fields little-endian too, by the dialect in which the result can be
    read; as it is where there is none."""
    if len(data) <= _SIMD_AT or not any(data[_SIMD_AT:]):
        return swapped
    for dialect in (dialects.R2, dialects.O1, dialects.M):
        out = bytearray(swapped)
        # R2's fields begin where others have config4.
        first = min(at for at, _ in dialect.fields.values())
        out[first : _SIMD_END] = data[first:_SIMD_END]
        for at, kind in set(dialect.fields.values()):
            end = at + FIELD_BYTES[kind]
            out[at:end] = data[at:end][::-1]
        found = dialects.detect(bytes(out)).dialect
        if found.fields and found.fields == dialect.fields:
            return bytes(out[: len(swapped)])
    return swapped


def attr_of_samples(data: bytes) -> EventAttr:
    """An attr (already little-endian) as its samples are walked by. Raises DamagedInput."""
    attr = attr_codec.decode(data)
    return attr if attr.simd_enabled else attr_codec.decode(data, dialect=dialects.L)


def mmap2_has_protection(word: int) -> bool:
    """Whether the u32 behind MMAP2's inode generation is a protection.

    Kernels from 3.12 to 3.15 had no protection and flags there: the path follows at once.
    """
    return word < _NO_PROTECTION


def swap_build_ids(entries: bytes | bytearray) -> bytes:
    """Records HEADER_BUILD_ID, one behind the other, from little-endian to big-endian."""
    out, at = bytearray(entries), 0
    while at + _HEADER_BYTES + 4 <= len(out):
        kind, misc, size, pid = struct.unpack_from("<IHHI", out, at)
        struct.pack_into(">IHHI", out, at, kind, misc, size, pid)
        at += max(size, _HEADER_BYTES)
    return bytes(out)


class Swapper:
    """Rewrites records, by the events known so far."""

    def __init__(self, events: Iterable[tuple[EventAttr, Sequence[int]]] = ()) -> None:
        self._plans: list[LayoutPlan] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self._by_id: dict[int, int] = {}  # the number of a plan
        for attr, ids in events:
            self.add(attr, ids)

    def add(self, attr: EventAttr, ids: Sequence[int]) -> None:
        # What a plan depends on, of attrs without SIMD fields.
        told = (
            attr.sample_type, attr.read_format, attr.branch_sample_type, attr.flags,
            attr.sample_regs_user, attr.sample_regs_intr,
        )  # fmt: skip
        number = self._numbers.setdefault(told, len(self._plans))
        if number == len(self._plans):
            self._plans.append(plan_layout(attr))
        self._by_id.update(dict.fromkeys(ids, number))

    def swap(self, chunk: bytearray, *, last: bool) -> tuple[int, int | None]:
        """Rewrites the complete records that `chunk` begins with.

        Returns the bytes done and those of payload that follow; None for the payload where a
        header makes no sense, or the data end (`last`) inside a record. Stops before a compressed
        record.
        """
        samples: list[int] = []
        at, stop, payload = 0, False, 0
        while at + _HEADER_BYTES <= len(chunk):
            kind, misc, size = _BIG_HEADER.unpack_from(chunk, at)
            if (at + size > len(chunk) and not last) or (at and kind in COMPRESSED_TYPES):
                break
            _LITTLE_HEADER.pack_into(chunk, at, kind, misc, size)
            if size < _HEADER_BYTES or at + size > len(chunk):
                at, stop = at + _HEADER_BYTES, True
                break
            if kind == RecordType.SAMPLE:
                if not (at | size) & 7:
                    samples += (at >> 3, (at + size) >> 3)
                else:  # of an uneven size, or behind such a record
                    whole = size & ~7
                    alone = chunk[at : at + whole]
                    self._samples(alone, np.array([[0, whole >> 3]], np.int64))
                    chunk[at : at + whole] = alone
            else:
                body = bytes(chunk[at + _HEADER_BYTES : at + size])
                chunk[at + _HEADER_BYTES : at + size] = self.body(kind, misc, body)
                if kind in (RecordType.AUXTRACE, RecordType.HEADER_TRACING_DATA):
                    at += size
                    payload = _payload_bytes(kind, body)
                    stop = payload < 0
                    break
            at += size
        else:
            stop = last and at < len(chunk)
        if samples:
            self._samples(chunk, np.array(samples, np.int64).reshape(-1, 2))
        return at, None if stop else payload

    def body(self, kind: int, misc: int, body: bytes) -> bytes:
        """What follows the header of any record but a sample; as long as before."""
        trailer = b""
        if kind < _FIRST_TOOL_TYPE and self._plans:
            trailer = self._trailer(body)
            body = body[: len(body) - len(trailer)]
        swap = _SPECIAL.get(kind)
        if swap is not None:
            swapped = swap(self, body, misc)
        else:
            begins = _BEGINS.get(kind, "")
            swapped = _numbers(begins, body)
            if kind in _WORDS_FOLLOW:
                swapped = swapped[: len(swapped) - _behind(begins, body)] + _words(
                    body[struct.calcsize("<" + begins) :]
                )
        return swapped + trailer

    def _trailer(self, body: bytes) -> bytes:
        """The little-endian struct sample_id that the body ends with."""
        names = self._plans[0].trailer
        at = names.get("identifier", names.get("id"))
        plan = self._plans[0]
        if at is not None and len(body) >= -8 * at:
            (number,) = struct.unpack_from(">Q", body, len(body) + 8 * at)
            plan = self._plans[self._by_id.get(number, 0)]
        count = len(plan.trailer)
        if len(body) < 8 * count:
            return b""
        words = list(struct.unpack(f">{count}Q", body[len(body) - 8 * count :]))
        for name in ("tid", "cpu"):
            if name in plan.trailer:
                words[plan.trailer[name]] = _halves(words[plan.trailer[name]])
        return struct.pack(f"<{count}Q", *words)

    def _samples(self, chunk: bytearray, spans: I64) -> None:
        """spans: int64 [k, 2], first word and the word behind the last of each sample."""
        if not self._plans:
            return
        words = np.frombuffer(chunk, "<u8", len(chunk) // 8)
        raw = words.copy() if any(_has_bytes(plan) for plan in self._plans) else words
        inside = _each(spans[:, 0] + 1, spans[:, 1] - spans[:, 0] - 1)  # the header is done
        words[inside] = words[inside].byteswap()
        for plan, mine in self._by_plan(words, spans):
            for name in ("tid", "cpu"):
                if name in plan.fixed:
                    at = mine[:, 0] + plan.fixed[name]
                    at = at[at < mine[:, 1]]
                    words[at] = words[at] << np.uint64(32) | words[at] >> np.uint64(32)
            if _needs_walk(plan):
                _walk(plan, words, raw, mine)

    def _by_plan(
        self, words: U64, spans: I64
    ) -> Iterator[tuple[LayoutPlan, I64]]:
        plan = self._plans[0]
        if len(self._plans) == 1 or plan.id_word is None:
            yield plan, spans
            return
        at = np.minimum(spans[:, 0] + plan.id_word, spans[:, 1] - 1)
        owners = np.array([self._by_id.get(number, 0) for number in words[at].tolist()], np.int64)
        order = np.argsort(owners, kind="stable")
        numbers, begins = np.unique(owners[order], return_index=True)
        for number, mine in zip(numbers, np.split(order, begins[1:]), strict=True):
            yield self._plans[number], spans[mine]

    def _attr(self, body: bytes, misc: int) -> bytes:
        size = int.from_bytes(body[4:8], "big") or ATTR_SIZE_VER0
        if not ATTR_SIZE_VER0 <= size <= len(body):
            return swap_attr(body)
        attr, ids = swap_attr(body[:size]), _words(body[size:])
        if len(self._by_id) < _MOST_IDS and len(self._plans) < _MOST_PLANS:
            try:
                decoded = attr_of_samples(attr)
            except DamagedInput:  # met again, and told, where the events are collected
                return attr + ids
            self.add(decoded, struct.unpack_from(f"<{len(ids) // 8}Q", ids))
        return attr + ids

    def _mmap2(self, body: bytes, misc: int) -> bytes:
        kinds = "IIQQQ" + ("24s" if misc & MISC_MMAP_BUILD_ID else "IIQQ")
        if len(body) >= 60 and mmap2_has_protection(struct.unpack_from(">I", body, 56)[0]):
            kinds += "II"
        return _numbers(kinds, body)

    def _thread_map(self, body: bytes, misc: int) -> bytes:
        return _numbers("Q" + "Q16s" * ((len(body) - 8) // 24), body)

    def _auxtrace_error(self, body: bytes, misc: int) -> bytes:
        return _numbers("IIIIIIQQ64sII" if len(body) >= 112 else "IIIIIIQQ", body)

    def _cpu_map(self, body: bytes, misc: int) -> bytes:
        return _cpu_map(body)

    def _event_update(self, body: bytes, misc: int) -> bytes:
        swapped = _numbers("QQ", body)
        if len(body) < 16:
            return swapped
        (what,) = struct.unpack_from("<Q", swapped)
        if what == _EVENT_UPDATE_SCALE:
            return _numbers("QQQ", body)
        return swapped[:16] + _cpu_map(body[16:]) if what == _EVENT_UPDATE_CPUS else swapped


_SPECIAL: dict[int, Callable[[Swapper, bytes, int], bytes]] = {
    RecordType.HEADER_ATTR: Swapper._attr, RecordType.MMAP2: Swapper._mmap2,
    RecordType.THREAD_MAP: Swapper._thread_map, RecordType.CPU_MAP: Swapper._cpu_map,
    RecordType.AUXTRACE_ERROR: Swapper._auxtrace_error,
    RecordType.EVENT_UPDATE: Swapper._event_update,
}  # fmt: skip


def _numbers(kinds: str, data: bytes) -> bytes:
    """The numbers that `data` begins with little-endian, as many as there are; the rest as is."""
    size = struct.calcsize("<" + kinds)
    if size <= len(data):
        return struct.pack("<" + kinds, *struct.unpack_from(">" + kinds, data)) + data[size:]
    # Too short for its type: whoever reads it will say so.
    fitting = kinds
    while struct.calcsize("<" + fitting) > len(data):
        fitting = fitting.rstrip("0123456789s") if fitting[-1] == "s" else fitting[:-1]
    return _numbers(fitting, data)


def _behind(kinds: str, data: bytes) -> int:
    return max(0, len(data) - struct.calcsize("<" + kinds))


def _words(data: bytes) -> bytes:
    count = len(data) // 8
    return struct.pack(f"<{count}Q", *struct.unpack_from(f">{count}Q", data)) + data[8 * count :]


def _cpu_map(data: bytes) -> bytes:
    """struct perf_record_cpu_map_data: a list of CPUs, a mask of 4 or 8 byte words, or a range."""
    if len(data) < 6:
        return _numbers("HHH", data)
    kind, number, width = struct.unpack_from(">HHH", data)
    if kind == 0:
        return _numbers(f"HH{'H' * min(number, (len(data) - 4) // 2)}", data)
    if kind == 1:
        head, word = ("HHH", "I") if width == 4 else ("HHH4s", "Q")
        room = (len(data) - struct.calcsize("<" + head)) // struct.calcsize(word)
        return _numbers(head + word * max(0, min(number, room)), data)
    return _numbers("HBBHH", data) if kind == 2 else data[:2][::-1] + data[2:]


def _payload_bytes(kind: int, body: bytes) -> int:
    """Bytes of payload behind a record; -1 where it is too short to say."""
    wide = 8 if kind == RecordType.AUXTRACE else 4
    if len(body) < wide:
        return -1
    size = int.from_bytes(body[:wide], "big")
    return size + (-size % 8 if kind == RecordType.HEADER_TRACING_DATA else 0)


def _halves(word: int) -> int:
    """Two u32 that were swapped as if they were one u64."""
    return word >> 32 | (word & 0xFFFFFFFF) << 32


def _has_bytes(plan: LayoutPlan) -> bool:
    kinds = (FieldKind.RAW, FieldKind.STACK, FieldKind.BYTES)
    return any(step.kind in kinds for step in plan.following)


def _needs_walk(plan: LayoutPlan) -> bool:
    return (
        _has_bytes(plan) or any(step.name == "branch_stack" for step in plan.following)
        or any(said.simd for said in plan.sets.values())
    )  # fmt: skip


def _walk(plan: LayoutPlan, words: U64, raw: U64, spans: I64) -> None:
    """Puts right what is not a u64 behind the leading fields of samples, all of them together.

    words: swapped. raw: the same before that, as little-endian words. spans: int64 [k, 2], first
    word and the word behind the last. A sample that does not hold what it claims is left from
    there on: it will be found damaged.
    """
    at, end = spans[:, 0] + plan.fixed_words, spans[:, 1]
    for step in plan.following:
        inside = at < end
        at, end = at[inside], end[inside]
        if not len(at):
            return
        # Lengths beyond any record's are all alike; so nothing overflows.
        word = np.minimum(words[at], np.uint64(_TOO_LONG)).astype(np.int64)
        if step.kind is FieldKind.WORDS:
            at = at + step.words
        elif step.kind is FieldKind.REGISTERS:
            said = plan.sets[step.name]
            at = at + 1 + np.where(word != 0, said.words, 0)
            if said.simd:
                at = at + _simd_words(said, words, at, end, (word & 4) != 0)
        elif step.kind is FieldKind.COUNTED:
            first = at + 1 + step.words
            at = first + word * step.entry_words
            if step.name == "branch_stack":
                fits = at <= end
                rows = _each(first[fits], word[fits] * _BRANCH_WORDS)[2::_BRANCH_WORDS]
                words[rows] = _branch_flags(words[rows])
        elif step.kind is FieldKind.RAW:
            # A u32, and its bytes follow in the same word. What fills the last one up is no number.
            size = words[at] >> np.uint64(32)
            after = at + (size.astype(np.int64) + 11 >> 3)
            fits = after <= end
            first, upper = at[fits], np.uint64(0xFFFFFFFF00000000)
            words[first] = size[fits] | raw[first] & upper
            rows = _each(first + 1, after[fits] - first - 1)
            words[rows] = raw[rows]
            at = after
        else:
            after = at + 1 + (word + 7 >> 3)
            fits = after <= end
            rows = _each(at[fits] + 1, after[fits] - at[fits] - 1)
            words[rows] = raw[rows]
            at = after + ((word > 0) & (step.kind is FieldKind.STACK))


def _simd_words(plan: SetPlan, words: U64, at: I64, end: I64, has: Bool) -> I64:
    """How many words header, vectors and predicates take at each place; 0 where there are none.

    A header of four u16 in one word is put in order: swapped as a word, the last stands first. It
    is told from one of four words by what it is: no count has more than 16 bits.
    """
    took = np.zeros(len(at), np.int64)
    here = np.flatnonzero(has & (at < end))
    slot = words[at[here]]
    narrow = np.full(len(here), plan.header == "u16") | (slot > np.uint64(0xFFFF))
    mine = here[narrow]
    parts = [slot[narrow] >> np.uint64(shift) & np.uint64(0xFFFF) for shift in (48, 32, 16, 0)]
    words[at[mine]] = (
        parts[0] | parts[1] << np.uint64(16) | parts[2] << np.uint64(32) | parts[3] << np.uint64(48)
    )
    took[mine] = 1 + _payload_words(parts)
    wide = here[~narrow]
    wide = wide[at[wide] + 4 <= end[wide]]
    took[wide] = 4 + _payload_words([words[at[wide] + part] for part in range(4)])
    return took


def _payload_words(parts: Sequence[U64]) -> I64:
    # Numbers beyond any header's are all alike; so nothing overflows.
    nr, qwords, nr_pred, pred_qwords = (
        np.minimum(part, np.uint64(0xFFFF)).astype(np.int64) for part in parts
    )
    return nr * qwords + nr_pred * pred_qwords


def _each(first: I64, counts: I64) -> I64:
    """first[i] .. first[i] + counts[i] - 1 of all i, behind each other."""
    begins = np.repeat(first - np.cumsum(counts) + counts, counts)
    return begins + np.arange(len(begins))


def _branch_flags(words: U64) -> U64:
    out = np.zeros(len(words), np.uint64)
    at = 0
    for width in _BRANCH_FLAGS:
        value = words >> np.uint64(64 - at - width) & np.uint64((1 << width) - 1)
        out |= value << np.uint64(at)
        at += width
    return out
