"""Source lines and inlined functions below the lines of samples and callers."""

from __future__ import annotations

import numpy as np
from support.fake_batches import batch, f64, names, register_set

from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.analysis.shown import Policy
from perfxmm.analysis.sourcelines import Found, Frame, Frames
from perfxmm.views.script import ScriptText

INLINED = (Frame("inner", "/src/a.h", 3), Frame("middle", "/src/a.c", 0),
           Frame("axpy", "/src/a.c", 12))  # fmt: skip
PLAIN = (Frame("axpy", "/src/b.c", 20),)


class Known:
    """In place of analysis.sourcelines.SourceLines: frames by file offset."""

    def __init__(self, known: dict[int, Frames]) -> None:
        self.known = known
        self.asked: list[int] = []

    def of(self, made) -> Found:
        return self.at(made.dso, made.extra[CODE_OFFSET])

    def at(self, dso, offset) -> Found:
        """As Lines.look_up may: all that is not known has one number."""
        self.asked += offset.tolist()
        frames = list(self.known.values())
        place = {offset: number for number, offset in enumerate(self.known)}
        numbers = [place.get(o, len(frames)) for o in offset.tolist()]
        return Found(np.array(numbers, np.intp), [*frames, ()])


def samples(*offsets: int):
    """IP 0x401000 + offset of each; the registers are there to be printed below."""
    n = len(offsets)
    made = batch(register_set("user", np.zeros((n, 1, 2), np.uint64) + f64(1.0)))
    made.extra[CODE_OFFSET] = np.array(offsets, np.uint64)
    made.ip[:] = np.uint64(0x401000) + made.extra[CODE_OFFSET]
    made.symbol[:], made.symbol_offset[:] = 0, made.extra[CODE_OFFSET]
    return made


def text_of(made, fields: str, known: dict[int, Frames], **settings) -> list[str]:
    table = names(**settings.pop("names", {}))
    writer = ScriptText(table, Policy(), fields.split(","), source=Known(known), **settings)
    return b"".join(writer.lines(made)).decode().splitlines()


def test_the_line_stands_below_the_samples_line() -> None:
    lines = text_of(samples(0x10, 0x20, 0x10), "ip,srcline", {0x10: INLINED, 0x20: PLAIN})
    assert lines == [
        "          401010", "  a.h:3", "          401020", "  b.c:20", "          401010",
        "  a.h:3",
    ]  # fmt: skip


def test_registers_come_below_the_source() -> None:
    lines = text_of(samples(0x10), "ip,srcline,vec", {0x10: PLAIN})
    assert [line.split()[0] for line in lines] == ["401010", "b.c:20", "xmm0"]


def test_where_no_line_is_known_object_and_offset_stand() -> None:
    made = samples(0x10, 0x20)
    assert text_of(made, "ip,srcline", {}) == [
        "          401010", "  app[10]", "          401020", "  app[20]",
    ]  # fmt: skip
    made.ip[1] = made.ip[0]
    made.dso[1] = 1
    assert text_of(made, "srcline", {}, names={"dsos": ["/a", "/b"]})[1::2] == [
        "  a[10]", "  b[20]",
    ]  # fmt: skip
    made = samples(0x10, 0x20)
    made.dso[:] = -1
    assert text_of(made, "ip,srcline", {}) == ["          401010", "          401020"]
    made.dso[:] = 0
    kernel = text_of(made, "ip,srcline", {}, names={"dsos": ["[kernel.kallsyms]"]})
    assert kernel[1] == "  [kernel.kallsyms][10]"


def test_inlined_functions_stand_above_the_one_that_has_the_address() -> None:
    known = {0x10: INLINED, 0x20: PLAIN}
    lines = text_of(samples(0x10, 0x20), "ip,sym,symoff,srcline,inline", known)
    assert lines == [
        "          401010 axpy+0x10",
        "  a.h:3",
        "\t          401010 inner (inlined)",
        "  a.h:3",
        "\t          401010 middle (inlined)",
        "  a.c:?",
        "\t          401010 axpy+0x10 (/usr/bin/app)",
        "  a.c:12",
        "          401020 axpy+0x20",
        "  b.c:20",
    ]


def test_inlined_functions_without_lines() -> None:
    assert text_of(samples(0x10, 0x20, 0x30), "ip,inline", {0x10: INLINED, 0x20: PLAIN}) == [
        "          401010",
        "\t          401010 inner (inlined)",
        "\t          401010 middle (inlined)",
        "\t          401010 axpy (/usr/bin/app)",
        "          401020",
        "          401030",
    ]


def test_one_place_at_two_addresses() -> None:
    """Of two processes that mapped the file elsewhere."""
    made = samples(0x10, 0x10)
    made.ip[1] = 0x7F0000000010
    lines = text_of(made, "ip,inline", {0x10: INLINED})
    assert [line.split()[0] for line in lines] == ["401010"] * 4 + ["7f0000000010"] * 4


def test_callers_have_their_lines_in_the_chain() -> None:
    made = samples(0x10, 0x20)
    context = 2**64 - 512
    made.chain = np.array([context, 0x401010, 0x402005, context, 0x401020], np.uint64)
    made.chain_start = np.array([0, 3, 5])

    def resolve(_):
        zeros = np.zeros(5, np.int32)
        return (
            np.array([-1, 0, 1, -1, 0], np.int32), np.array([0, 16, 5, 0, 32], np.uint64), zeros,
            np.array([0, 0x10, 0x1004, 0, 0x20], np.uint64),
        )  # fmt: skip

    known = {0x10: INLINED, 0x1004: PLAIN}
    lines = text_of(made, "ip,chain,srcline,inline", known, resolve_chain=resolve)
    assert lines == [
        "          401010",
        "\t          401010 inner (inlined)",
        "  a.h:3",
        "\t          401010 middle (inlined)",
        "  a.c:?",
        "\t          401010 axpy (/usr/bin/app)",
        "  a.c:12",
        "\t          402005 dot (/usr/bin/app)",
        "  b.c:20",
        "          401020",
        "\t          401020 axpy (/usr/bin/app)",
        "  app[20]",
    ]
    # Without the inlined ones, the line is the innermost function's, as perf has it.
    lines = text_of(made, "ip,chain,srcline", known, resolve_chain=resolve)
    assert lines[:3] == ["          401010", "\t          401010 axpy (/usr/bin/app)", "  a.h:3"]


def test_names_of_hostile_programs_are_escaped() -> None:
    evil = (Frame("f\x1b[2J", "/x/\x1b]0;pwned\x07.c\udcff", 1), Frame("", "/a\u202eb.c", 2))
    lines = text_of(samples(0x10), "ip,srcline,inline", {0x10: evil})
    assert lines == [
        "          401010",
        "  \\x1b]0;pwned\\x07.c\\xff:1",
        "\t          401010 f\\x1b[2J (inlined)",
        "  \\x1b]0;pwned\\x07.c\\xff:1",
        "\t          401010 axpy (/usr/bin/app)",
        "  a\\u202eb.c:2",
    ]


def test_nobody_is_asked_without_the_fields() -> None:
    known = Known({})
    writer = ScriptText(names(), Policy(), ["ip"], source=known)
    assert b"".join(writer.lines(samples(0x10))) == b"          401010\n"
    assert known.asked == []
