"""Formats of tracepoints, as kernels print them and as they could."""

from __future__ import annotations

import pytest
from support import snapshot_writer as sw

from perfxmm.kernel.traceformat import TraceField, parse_format

# events/sched/sched_wakeup/format of Linux 6.1.
SCHED_WAKEUP = b"""name: sched_wakeup
ID: 315
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;
\tfield:int target_cpu;\toffset:32;\tsize:4;\tsigned:1;

print fmt: "comm=%s pid=%d prio=%d target_cpu=%03d", REC->comm, REC->pid, REC->prio, REC->target_cpu
"""


def test_a_kernels_own_format() -> None:
    found = parse_format(SCHED_WAKEUP, "sched")
    assert (found.system, found.name, found.number) == ("sched", "sched_wakeup", 315)
    assert list(found.fields) == [
        "common_type", "common_flags", "common_preempt_count", "common_pid", "comm", "pid", "prio",
        "target_cpu",
    ]  # fmt: skip
    assert found.fields["comm"] == TraceField("comm", "char[16]", 8, 16)
    assert found.fields["pid"] == TraceField("pid", "pid_t", 24, 4, True)
    assert found.fields["common_type"].is_number
    assert not found.fields["comm"].is_number
    assert found.fields["target_cpu"].end == 36
    assert found.lacking(["pid", "ip", "sp"]) == ("ip", "sp")


def test_the_snapshots_format() -> None:
    found = parse_format(sw.PLAIN.text(), "xsaves_nmi")
    assert (found.name, found.number) == ("snapshot", 1742)
    places = {name: (f.offset, f.size_bytes) for name, f in found.fields.items()}
    assert places == sw.PLAIN.places
    image = found.fields["xsave"]
    assert (image.type, image.location, image.size_bytes, image.offset) == ("u8[]", "data", 4, 64)
    assert not image.is_number


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"field:__u8 flags;\toffset:8;\tsize:1;\tsigned:0;", TraceField("flags", "__u8", 8, 1)),
        (b"field:__data_loc __u8[] x;\toffset:8;\tsize:4;\tsigned:0;",
         TraceField("x", "__u8[]", 8, 4, False, "data")),
        (b"field:__rel_loc u8[] x;\toffset:8;\tsize:4;\tsigned:0;",
         TraceField("x", "u8[]", 8, 4, False, "rel")),
        # Without `signed`, as before Linux 2.6.33, and with other white space.
        (b"field:unsigned  long long a;  offset:8; size:8;",
         TraceField("a", "unsigned  long long", 8, 8)),
        (b"field:const char * name;\toffset:8;\tsize:8;\tsigned:0;",
         TraceField("name", "const char *", 8, 8)),
        (b"field:struct foo bar;\toffset:8;\tsize:24;\tsigned:0;",
         TraceField("bar", "struct foo", 8, 24)),
    ],
)  # fmt: skip
def test_ways_to_say_a_field(line: bytes, field: TraceField) -> None:
    text = b"name: n\nID: 1\nformat:\n\t" + line + b"\n\nprint fmt: \"x\", REC->x\n"
    assert parse_format(text, "s").fields == {field.name: field}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no name"),
        (b"name: n\nformat:\n\tfield:u8 a;\toffset:0;\tsize:1;\tsigned:0;\n", "no number"),
        (b"name: n\nID: 1\nformat:\n", "no fields"),
        (b"name: n\nID: 1\n\tfield:u8 a;\toffset:0;\tsize:1;\n\tfield:u8 a;\toffset:1;\tsize:1;\n",
         "two fields a"),
        (b"name: n\nID: 1\n" + b"".join(
            b"\tfield:u8 a%d;\toffset:0;\tsize:1;\n" % n for n in range(300)), "more than 256"),
    ],
)  # fmt: skip
def test_what_is_no_format(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_format(text, "s")


def test_fields_in_the_print_format_are_none() -> None:
    text = SCHED_WAKEUP + b"\n\tfield:u8 evil;\toffset:0;\tsize:1;\tsigned:0;\n"
    assert "evil" not in parse_format(text, "sched").fields
