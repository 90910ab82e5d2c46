from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxmm.analysis import textcolumns as text

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)


def lines(rows: np.ndarray) -> list[bytes]:
    return bytes(text.squeeze(text.assemble([rows, b"\n"], len(rows)))).split(b"\n")[:-1]


@settings(max_examples=60, deadline=None)
@given(WORDS)
def test_hexadecimal_is_what_format_says(values: list[int]) -> None:
    words = np.array(values, np.uint64)
    assert lines(text.hex_minimal(words)) == [b"%x" % v for v in values]
    assert lines(text.hex_fixed(words)) == [b"%016x" % v for v in values]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_signed_decimals_are_what_str_says(values: list[int]) -> None:
    assert lines(text.decimal(np.array(values, np.int64))) == [b"%d" % v for v in values]


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(1, 22))
def test_unsigned_decimals_are_what_str_says(values: list[int], width: int) -> None:
    words = np.array(values, np.uint64)
    assert lines(text.decimal(words)) == [b"%d" % v for v in values]
    fixed = [(b"%d" % v).rjust(width, b"0")[-width:] for v in values]
    assert lines(text.decimal_fixed(words, width)) == fixed


def test_every_length_of_a_number() -> None:
    powers = [0, *(16**k for k in range(16)), *(16**k - 1 for k in range(1, 17))]
    words = np.array(powers, np.uint64)
    assert lines(text.hex_minimal(words)) == [b"%x" % v for v in powers]
    tens = [0, *(10**k for k in range(20)), *(10**k - 1 for k in range(1, 20))]
    assert lines(text.decimal(np.array(tens, np.uint64))) == [b"%d" % v for v in tens]


def test_strings_are_chosen_by_index_and_the_width_is_that_of_those_used() -> None:
    rows = text.choose([b"a", b"long enough", b"bc"], np.array([2, 0, 2]))
    assert rows.shape == (3, 2)
    assert lines(rows) == [b"bc", b"a", b"bc"]


def test_alignment() -> None:
    rows = text.choose([b"a", b"abc", b"abcdef"], np.array([0, 1, 2]))
    assert lines(text.right_aligned(rows, 4)) == [b"   a", b" abc", b"abcdef"]
    assert lines(text.left_aligned(rows, 4)) == [b"a   ", b"abc ", b"abcdef"]


def test_blanked_rows_say_something_else() -> None:
    rows = text.decimal(np.array([5, 77], np.uint64))
    assert lines(text.blank_where(rows, np.array([True, False]), b"null")) == [b"null", b"77"]
    assert lines(text.blank_where(rows, np.array([False, True]))) == [b"5", b""]


def test_registers_as_blocks_of_words() -> None:
    words = np.arange(8, dtype=np.uint64).reshape(2, 2, 2)
    block = text.word_block(
        words, open_register=b"[", before=b"0x", between=b",", close_register=b"]",
        between_registers=b";",
    )
    assert bytes(text.squeeze(text.assemble([block, b"\n"], 2))).split() == [
        b"[0x0000000000000000,0x0000000000000001];[0x0000000000000002,0x0000000000000003]",
        b"[0x0000000000000004,0x0000000000000005];[0x0000000000000006,0x0000000000000007]",
    ]


def test_a_pad_makes_all_rows_as_long_as_the_longest() -> None:
    name = text.choose([b"a", b"abcd"], np.array([0, 1]))
    tail = text.constant(b"x" * 80, 2)
    rows = text.assemble([b"<", name, text.PAD, b">", tail, b"\n"], 2)
    assert text.squeeze(rows) == b"<a   >" + b"x" * 80 + b"\n" + b"<abcd>" + b"x" * 80 + b"\n"


def test_rows_of_several_shapes_come_back_in_order() -> None:
    even, odd = text.constant(b"even\n", 2), text.constant(b"o\n", 1)
    rows = text.interleave([(np.array([0, 2]), even), (np.array([1]), odd)], 3)
    assert text.squeeze(rows) == b"even\no\neven\n"


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 90), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_squeezing_drops_the_zeros_and_nothing_else(
    n: int, zones: list[tuple[int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [rng.integers(1, 256, (n, width)) * (whole | rng.integers(0, 2, (n, width)))
         for width, whole in zones],
        axis=1,
    ).astype(np.uint8)  # fmt: skip
    assert bytes(text.squeeze(rows)) == rows.tobytes().replace(b"\0", b"")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-999, 9999), st.just(-1)), min_size=1, max_size=12),
    st.lists(st.text("abc", max_size=9), min_size=1, max_size=12), st.integers(1, 12),
)  # fmt: skip
def test_alignment_is_that_of_format(numbers: list[int], strings: list[str], width: int) -> None:
    digits = text.decimal(np.array(numbers, np.int64))
    assert lines(text.right_aligned(digits, width)) == [b"%*d" % (width, n) for n in numbers]
    assert lines(text.left_aligned(digits, width)) == [b"%-*d" % (width, n) for n in numbers]
    names = text.choose([s.encode() for s in strings], np.arange(len(strings)))
    assert lines(text.right_aligned(names, width)) == [s.rjust(width).encode() for s in strings]
    assert lines(text.left_aligned(names, width)) == [s.ljust(width).encode() for s in strings]


def test_runs_cover_everything_once() -> None:
    found = list(text.runs(1000, text.RUN_BYTES // 100))
    assert [r.start for r in found] == list(range(0, 1000, 100))
    assert found[-1].stop == 1000


def test_a_sign_stands_at_its_number_where_others_are_longer() -> None:
    rows = text.decimal(np.array([-8, 1234, -99, 0], np.int64))
    shown = [bytes(row) for row in text.spaced(rows)]
    assert shown == [b"   -8", b" 1234", b"  -99", b"    0"]
