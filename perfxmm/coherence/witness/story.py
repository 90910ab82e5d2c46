"""One snapshot in full: the code that speaks of it, and each claim with the value found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfxmm.coherence.witness.check import Checklist, class_of, shapes_of
from perfxmm.coherence.witness.claims import FIRST_GPR, FIRST_OPMASK, Claim, claims_of
from perfxmm.coherence.witness.claimtext import texts
from perfxmm.coherence.witness.places import Code, Known, Place, after
from perfxmm.coherence.witness.statement import believed_classes
from perfxmm.program.effects import apply
from perfxmm.program.values import Values
from perfxmm.snapshots.batch import U64, RegisterSet, SnapshotBatch

# How much code is shown before and behind the IP.
_SHOWN_BEFORE, _SHOWN_AFTER = 8, 3


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction. offset: from its function's start. text: Intel syntax.

    ran: it surely ran just before the snapshot. proves: what it leaves in registers, in words.
    at_ip: it is the one at the IP.
    """

    offset: int
    text: str
    ran: bool
    at_ip: bool
    proves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One claim about a snapshot. result: "proved", "contradicted", or "silent" where a register
    that it needs was not delivered or its class is not believed.

    found: the word as it was sampled, None where it was not delivered.
    """

    text: str
    register_class: str
    result: str
    found: int | None


@dataclass(frozen=True, slots=True)
class CodeStory:
    """What the code says of one snapshot. silence: why it says nothing, else ""."""

    lines: tuple[Line, ...] = ()
    checks: tuple[Checked, ...] = ()
    silence: str = ""


def code_story(
    code: Code, batch: SnapshotBatch, registers: RegisterSet, row: int, ip: U64, dso: int,
    offset: int, believed: int | None = None,
) -> CodeStory:
    """Asks the code about sample `row` of one set, claim by claim.

    believed: class bits to ask about (Statement.asked); None takes them from the verdicts.
    """
    if dso < 0:
        return CodeStory(silence="no file is known for this address")
    place = Place(dso, offset, bool(batch.exact_ip[row]))
    known = code.known(place)
    if known.function is None:
        return CodeStory(silence=known.silence)
    classes = believed_classes(registers) if believed is None else np.full(
        len(batch), believed, np.uint8)  # fmt: skip
    shapes, shape = shapes_of(registers, classes)
    own = shapes[int(shape[row])]
    rows = np.array([row], np.int64)
    checks = []
    for claim in known.claims:
        result = "silent"
        if own.can_check(claim):
            listed = Checklist()
            entry = np.array([listed.add((claim,), own)], np.int64)
            wrong = listed.contradicted(registers, ip, rows, entry)[0]
            result = "contradicted" if wrong else "proved"
        checks.append(Checked(
            texts([claim])[0], class_of(claim.word), result, _found(registers, row, claim),
        ))  # fmt: skip
    return CodeStory(tuple(lines_of(code, place, known)), tuple(checks))


def lines_of(code: Code, place: Place, known: Known) -> list[Line]:
    """The instructions around a place, and what each of those that ran proves."""
    function = known.function
    assert function is not None
    start = function.line(known.address)
    ran: list[Line] = []
    values = Values(code.constants(place.dso))
    before: frozenset[Claim] = frozenset()
    for instruction in function.decode(start, known.address):
        apply(values, instruction)
        now = frozenset(claims_of(values, known.address))
        ran.append(Line(
            instruction.ip - function.start, str(instruction), True, False,
            tuple(texts(now - before)),
        ))  # fmt: skip
        before = now
    lines = _earlier(known, start, _SHOWN_BEFORE - len(ran)) + ran[-_SHOWN_BEFORE:]
    for number, instruction in enumerate(function.decode(known.address)):
        if number > _SHOWN_AFTER:
            break
        proves: tuple[str, ...] = ()
        done = place.after and number == 0
        if done:
            after(values, instruction)
            proves = tuple(texts(frozenset(claims_of(values, known.address)) - before))
        lines.append(Line(
            instruction.ip - function.start, str(instruction), done, number == 0, proves,
        ))  # fmt: skip
    return lines


def _earlier(known: Known, start: int, count: int) -> list[Line]:
    """Instructions before the straight line: they are in the file, but may not have run."""
    function = known.function
    if function is None or count <= 0:
        return []
    index = function.starts.index(start)
    first = function.starts[max(0, index - count)]
    return [
        Line(instruction.ip - function.start, str(instruction), False, False)
        for instruction in function.decode(first, start)
    ]


def _found(registers: RegisterSet, row: int, claim: Claim) -> int | None:
    word = claim.word
    if word >= FIRST_GPR:
        number = word - FIRST_GPR
        if number not in registers.gpr_ids or not int(registers.gpr_mask[row]) >> number & 1:
            return None
        return int(registers.gprs[row, registers.gpr_ids.index(number)])
    if word >= FIRST_OPMASK:
        number = word - FIRST_OPMASK
        masks = registers.predicate_mask
        there = len(masks) > row and int(masks[row]) >> number & 1
        return int(registers.predicates[row, number]) if there else None
    register, qword = divmod(word, 8)
    there = int(registers.vector_mask[row]) >> register & 1
    if not there or qword >= int(registers.delivered_qwords[row]):
        return None
    return int(registers.vectors[row, register, qword])
