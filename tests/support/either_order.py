"""Recordings in either byte order, from the same description: lists of numbers and bytes.

A record is a list of tokens: (format letter, number), bytes that are the same in both orders, or
`Bits`, a word of bit fields, which a big-endian compiler fills from its other end. Layouts:
include/uapi/linux/perf_event.h and tools/perf/Documentation/perf.data-file-format.txt, Linux 7.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Order = Literal["<", ">"]


@dataclass(frozen=True)
class Bits:
    """fields: (width, value) from the first declared on; at most 64 bits in sum."""

    fields: tuple[tuple[int, int], ...]

    def encode(self, order: Order) -> bytes:
        word = at = 0
        for width, value in self.fields:
            word |= value << (at if order == "<" else 64 - at - width)
            at += width
        return struct.pack(f"{order}Q", word)


Token = tuple[str, int] | bytes | Bits


def encode(tokens: Iterable[Token], order: Order) -> bytes:
    out = []
    for token in tokens:
        if isinstance(token, bytes):
            out.append(token)
        elif isinstance(token, Bits):
            out.append(token.encode(order))
        else:
            out.append(struct.pack(order + token[0], token[1]))
    return b"".join(out)


def numbers(letters: str, *values: int) -> list[Token]:
    return list(zip(letters, values, strict=True))


def words(*values: int) -> list[Token]:
    return numbers("Q" * len(values), *values)


@dataclass
class Record:
    """payload: what stands behind the record and is not part of its size."""

    kind: int
    body: list[Token] = field(default_factory=list)
    misc: int = 0
    payload: bytes = b""

    def encode(self, order: Order) -> bytes:
        body = encode(self.body, order)
        head = struct.pack(f"{order}IHH", self.kind, self.misc, 8 + len(body))
        return head + body + self.payload


@dataclass
class EventSpec:
    """An attr of `size` bytes (64 to 112) and its ids. precise: precise_ip. flags: bit numbers of
    the flag word, 15 and 16 (precise_ip) excepted."""

    sample_type: int
    ids: tuple[int, ...] = (7,)
    flags: tuple[int, ...] = (18,)
    precise: int = 0
    kind: int = 1
    config: int = 0
    read_format: int = 0
    branch_sample_type: int = 0
    regs_user: int = 0
    regs_intr: int = 0
    size: int = 112

    def encode(self, order: Order) -> bytes:
        return encode(self.tokens(), order)[: self.size]

    def tokens(self) -> list[Token]:
        said = dict.fromkeys(self.flags, 1)
        fields = [(1, said.get(bit, 0)) for bit in range(15)]
        fields += [(2, self.precise)] + [(1, said.get(bit, 0)) for bit in range(17, 64)]
        return [
            *numbers("IIQQQQ", self.kind, self.size, self.config, 4000, self.sample_type,
                     self.read_format),
            Bits(tuple(fields)), *numbers("IIQQQQIiQIHH", 0, 0, 0, 0, self.branch_sample_type,
                                          self.regs_user, 0, 0, self.regs_intr, 0, 127, 0),
        ]  # fmt: skip


@dataclass
class Recording:
    """features: bit -> tokens, in the order of the bits. event_types: number -> name."""

    events: list[EventSpec]
    records: list[Record]
    features: dict[int, list[Token]] = field(default_factory=dict)
    event_types: dict[int, str] = field(default_factory=dict)

    def file(
        self, order: Order, *, magic: bytes = b"PERFILE2", long_bytes: int = 8,
        header_bytes: int = 104,
    ) -> bytes:  # fmt: skip
        """long_bytes: of the writer's unsigned long. header_bytes: 72 leaves out the bitmap."""
        ids, table = b"", b""
        for event in self.events:
            at = header_bytes + len(ids)
            table += event.encode(order)
            table += encode(words(at, 8 * len(event.ids)), order)
            ids += encode(words(*event.ids), order)
        types = b"".join(
            encode([("Q", number), name.encode().ljust(64, b"\0")], order)
            for number, name in self.event_types.items()
        )
        data = b"".join(one.encode(order) for one in self.records)
        attrs_at = header_bytes + len(ids)
        types_at = attrs_at + len(table)
        data_at = types_at + len(types)
        bodies_at = data_at + len(data) + 16 * len(self.features)
        sections, bodies, bits = b"", b"", 0
        for bit, tokens in sorted(self.features.items()):
            body = encode(tokens, order)
            sections += encode(words(bodies_at + len(bodies), len(body)), order)
            bodies += body
            bits |= 1 << bit
        said = magic if order == "<" or magic == b"PERFFILE" else magic[::-1]
        head = said + encode(
            words(header_bytes, self.events[0].size + 16, attrs_at, len(table), data_at, len(data),
                  types_at, len(types)), order,
        )  # fmt: skip
        if header_bytes > 72:
            wide = 8 * long_bytes
            longs = [bits >> at & (1 << wide) - 1 for at in range(0, 256, wide)]
            head += encode([("Q" if long_bytes == 8 else "I", one) for one in longs], order)
        return head + ids + table + types + data + sections + bodies

    def pipe(self, order: Order, *, magic: bytes = b"PERFILE2") -> bytes:
        said = magic if order == "<" or magic == b"PERFFILE" else magic[::-1]
        out = said + encode(words(16), order)
        for event in self.events:
            out += Record(64, [event.encode(order), *words(*event.ids)]).encode(order)
        for number, name in self.event_types.items():
            out += Record(65, [("Q", number), name.encode().ljust(64, b"\0")]).encode(order)
        for bit, tokens in self.features.items():
            out += Record(80, [("Q", bit), *tokens]).encode(order)
        return out + b"".join(one.encode(order) for one in self.records)


def string(text: str) -> list[Token]:
    """A string of a feature."""
    raw = text.encode() + b"\0"
    raw += bytes(-len(raw) % 64)
    return [("I", len(raw)), raw]


def padded(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return raw + bytes(-len(raw) % 8)


@dataclass
class Values:
    """What is in one sample, as far as its event asks for it."""

    ip: int = 0x1000
    pid: int = 10
    tid: int = 11
    time_ns: int = 1
    addr: int = 0
    identifier: int = 7
    cpu: int = 3
    period: int = 1
    group: Sequence[tuple[int, int]] = ((5, 7),)  # value, id
    chain: Sequence[int] = ()
    raw: bytes = b"\1\2\3\4"
    branches: Sequence[tuple[int, int, tuple[int, ...]]] = ()  # flags: values by declaration
    user: Sequence[int] | None = None
    stack: bytes = b""
    weight: int = 0
    intr: Sequence[int] | None = None
    aux: bytes = b""
    misc: int = 2


# Widths of struct perf_branch_entry's flags in the order of their declaration.
BRANCH_WIDTHS = (1, 1, 1, 1, 16, 4, 2, 4, 3, 31)


def sample(event: EventSpec, v: Values) -> Record:
    """A PERF_RECORD_SAMPLE of `event`."""
    asked = event.sample_type
    out: list[Token] = []
    if asked & 1 << 16:
        out += words(v.identifier)
    if asked & 1:
        out += words(v.ip)
    if asked & 2:
        out += numbers("II", v.pid, v.tid)
    if asked & 4:
        out += words(v.time_ns)
    if asked & 8:
        out += words(v.addr)
    if asked & 1 << 6:
        out += words(v.identifier)
    if asked & 1 << 9:
        out += words(v.identifier)
    if asked & 1 << 7:
        out += numbers("II", v.cpu, 0)
    if asked & 1 << 8:
        out += words(v.period)
    if asked & 1 << 4:
        if event.read_format & 8:
            out += words(len(v.group), *(number for pair in v.group for number in pair))
        else:
            out += words(v.group[0][0])
    if asked & 1 << 5:
        out += words(len(v.chain), *v.chain)
    if asked & 1 << 10:
        out += [("I", len(v.raw)), v.raw, bytes(-(len(v.raw) + 4) % 8)]
    if asked & 1 << 11:
        out += words(len(v.branches))
        for begin, end, flags in v.branches:
            out += [*words(begin, end), Bits(tuple(zip(BRANCH_WIDTHS, flags, strict=True)))]
    if asked & 1 << 12:
        out += words(0) if v.user is None else words(2, *v.user)
    if asked & 1 << 13:
        out += [*words(len(v.stack)), v.stack, *(words(len(v.stack)) if v.stack else [])]
    if asked & (1 << 14 | 1 << 24):
        out += words(v.weight)
    for bit in (15, 17):
        if asked & 1 << bit:
            out += words(0x1234567890 + bit)
    if asked & 1 << 18:
        out += words(0) if v.intr is None else words(2, *v.intr)
    for bit in (19, 21, 22, 23):
        if asked & 1 << bit:
            out += words(0xABCDEF0012 + bit)
    if asked & 1 << 20:
        out += [*words(len(v.aux)), v.aux]
    return Record(9, out, v.misc)


def trailer(event: EventSpec, v: Values) -> list[Token]:
    """struct sample_id, as it ends the event's other records."""
    asked, out = event.sample_type, list[Token]()
    if asked & 2:
        out += numbers("II", v.pid, v.tid)
    if asked & 4:
        out += words(v.time_ns)
    if asked & 1 << 6:
        out += words(v.identifier)
    if asked & 1 << 9:
        out += words(v.identifier)
    if asked & 1 << 7:
        out += numbers("II", v.cpu, 0)
    if asked & 1 << 16:
        out += words(v.identifier)
    return out
