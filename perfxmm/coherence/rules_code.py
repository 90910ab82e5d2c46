"""What becomes of verdicts where the code speaks: three more rows of the table of rules.

They come after all others, because the code is asked only about what those would believe; they are
applied by `witness`, not by `filter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.context import JudgeContext
from perfxmm.coherence.evidence import Evidence, uniform
from perfxmm.coherence.rule import ANY_SOURCE, Rule
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch

if TYPE_CHECKING:
    # Whoever only reads the table needs no disassembler.
    from perfxmm.coherence.witness.statement import Statement

_REFERENCE = (
    "Intel SDM volume 2, the instructions' own pages; straight-line code from the symbol's start "
    "without a branch target between, bytes of the file that was mapped"
)


class CodeEvidence(Evidence):
    """Evidence, and what the code says."""

    def __init__(
        self, batch: SnapshotBatch, registers: RegisterSet, context: JudgeContext,
        statement: Statement,
    ) -> None:
        super().__init__(batch, registers, context)
        self.statement = statement


def _statement(e: Evidence) -> Statement:
    assert isinstance(e, CodeEvidence)
    return e.statement


def code_proved(e: Evidence) -> Mask:
    """The instructions before the IP leave known values, and the registers hold them."""
    said = _statement(e)
    return uniform((said.proved != 0) & (said.contradicted == 0))


def code_skid(e: Evidence) -> Mask:
    """The registers are not what the instructions before the IP leave, but what those of a place a
    few instructions on do: they were taken later than the IP was."""
    said = _statement(e)
    return uniform((said.contradicted != 0) & (said.skid != 0))


def code_contradicted(e: Evidence) -> Mask:
    """The registers are not what the instructions before the IP leave, and no place a few
    instructions on explains them."""
    said = _statement(e)
    return uniform((said.contradicted != 0) & (said.skid == 0))


CODE_RULES: tuple[Rule, ...] = (
    Rule("code-proved", code_proved, "code-proved", _REFERENCE, sources=ANY_SOURCE),
    Rule("code-skid", code_skid, "code-skid", _REFERENCE, Verdict.LATE, sources=ANY_SOURCE),
    Rule(
        "code-contradicted", code_contradicted, "code-contradicted", _REFERENCE, Verdict.UNKNOWN,
        sources=ANY_SOURCE,
    ),
)  # fmt: skip
