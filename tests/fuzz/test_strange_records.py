"""Records that no recorder writes: odd sizes, payload everywhere. Found as they stand, and at a
cost that does not depend on how strange they are."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as pw

from perfxmm.perfdata import scanner
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.scanner import scan


def with_payload(kind: int, payload: int, size: int) -> bytes:
    """A record of `size` bytes, at least 16, that says that so many bytes follow, and those."""
    field = struct.pack("<Q" if kind == pw.AUXTRACE else "<I", payload)
    body = field.ljust(size - 8, b"\0")
    behind = payload + (-payload % 8 if kind == pw.HEADER_TRACING_DATA else 0)
    return pw.record(kind, body) + b"\xee" * behind


one_record = st.one_of(
    st.builds(lambda n: pw.record(99, bytes(n)), st.integers(0, 40)),
    st.builds(lambda n: pw.record(99, bytes(8 * n)), st.integers(0, 5)),
    st.builds(
        with_payload, st.sampled_from([pw.AUXTRACE, pw.HEADER_TRACING_DATA]), st.integers(0, 50),
        st.integers(16, 60),
    ),
)  # fmt: skip


def found_in(data: bytes) -> tuple[list[tuple[int, int]], list[Damage]]:
    damage: list[Damage] = []
    found = [
        (block.file_base + int(at), int(size))
        for block in scan(np.frombuffer(data, np.uint8), 0, len(data), report=damage.append)
        for at, size in zip(block.offsets, block.sizes, strict=True)
    ]
    return found, damage


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(one_record, st.integers(1, 60)), min_size=1, max_size=12), st.data())
def test_every_record_is_found_where_it_stands(
    parts: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    records = [record for record, times in parts for _ in range(times)]
    at, expected = 0, []
    for record in records:
        expected.append((at, struct.unpack_from("<H", record, 6)[0]))
        at += len(record)
    whole = b"".join(records)
    assert found_in(whole) == (expected, [])
    length = data.draw(st.integers(0, len(whole)))
    found, damage = found_in(whole[:length])
    assert found == expected[: len(found)]
    assert len(damage) <= 1
    reached = found[-1][0] + len(records[len(found) - 1]) if found else 0
    assert (reached == length) == (not damage)


@pytest.mark.parametrize(
    "record",
    [
        pw.record(99, b"\0"), pw.record(99, b"\0") + pw.record(99, bytes(2)),
        with_payload(pw.AUXTRACE, 0, 16), with_payload(pw.HEADER_TRACING_DATA, 3, 16),
        pw.record(99) * 2 + with_payload(pw.AUXTRACE, 8, 48),
    ],
    ids=["odd", "odd and even", "auxtrace", "tracing data", "now and then"],
)  # fmt: skip
def test_strange_records_are_not_looked_for_one_by_one(
    record: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = walked = 0
    stretch, go = scanner._Scanner.stretch, scanner._Scanner._steps

    def counted(self, position, most, room):  # type: ignore[no-untyped-def]
        nonlocal steps
        steps += 1
        return stretch(self, position, most, room)

    def counted_steps(self, position, most):  # type: ignore[no-untyped-def]
        nonlocal walked
        found = go(self, position, most)
        walked += len(found[0])
        return found

    monkeypatch.setattr(scanner._Scanner, "stretch", counted)
    monkeypatch.setattr(scanner._Scanner, "_steps", counted_steps)
    data = record * 8000
    found, damage = found_in(data)
    assert not damage
    count = len(found)
    assert count in (8000, 16000, 24000)
    assert walked <= 12 * count
    if len(record) != 72:  # there every second stretch ends at one
        assert steps < 100
