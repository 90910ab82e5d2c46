"""IPs that are off by some instructions: which of them the code around the IP gives away.

A lie here: the sample's IP, and the IP among its registers, are those of k steps later (or earlier)
in the program's own execution; all other registers stay. The registers as they really were at that
IP are known from the stepped program, so it is known which registers the lie made untrue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from support import simd_writer as sw
from support.lie_check import look
from support.simd_writer import GPR_IDS, IP_COLUMN, Truth
from support.stepper import Trace, executed

from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.analysis.shown import Policy
from perfxmm.coherence import REASONS, Verdict
from perfxmm.coherence.witness.claims import FIRST_GPR, NO_WORD, WORDS, Claim, Kind
from perfxmm.coherence.witness.places import Place
from perfxmm.kernel.dialects import M
from perfxmm.recording import Recording

SET = "intr"


@dataclass(frozen=True)
class SkewScore:
    """skewed: samples with a wrong IP. changed: in which a register is not what it was there.
    words: of these, in a word that the code there speaks of, be it of other bits. spoken: in bits
    that it speaks of (as a constant, or as equal to others). caught: of `spoken`, not believed;
    late: with the skid as the reason. proved: the others of `spoken`, of which the code yet said
    `proved` of some class: equalities that hold here and there. more: not believed though no such
    bit changed.
    """

    steps: int
    skewed: int
    changed: int
    words: int
    spoken: int
    caught: int
    late: int
    proved: int
    more: int

    @property
    def recall(self) -> float:
        return self.caught / self.spoken if self.spoken else 1.0


def words_of(truth: Truth) -> npt.NDArray[np.uint64]:
    """uint64 [n, WORDS], numbered as the witness numbers them."""
    one = next(iter(truth.sets.values()))
    out = np.zeros((len(truth), WORDS), np.uint64)
    out[:, :256] = one.vectors.reshape(len(truth), 256)
    out[:, 256:264] = one.predicates
    for column, number in enumerate(GPR_IDS):
        out[:, FIRST_GPR + number] = one.gprs[:, column]
    # The IP is the lie itself.
    out[:, FIRST_GPR + 8] = 0
    return out


def spoken_bits(trace: Trace, path: Path) -> Mapping[int, tuple[Claim, ...]]:
    """IP -> what the code before it says."""
    told = trace.truth.with_sets(SET)
    path.write_bytes(sw.recording(told, M, sideband=trace.side))
    recording = Recording(str(path))
    found: dict[int, tuple[Claim, ...]] = {}
    for batch in recording.judged(Policy.of(("all",))):
        assert batch.dso is not None
        ips, first = np.unique(batch.ip, return_index=True)
        for ip, row in zip(ips.tolist(), first.tolist(), strict=True):
            place = Place(int(batch.dso[row]), int(batch.extra[CODE_OFFSET][row]))
            found[ip] = recording.witness.code.known(place).claims
    return found


def _touched(
    claim: Claim, differs: npt.NDArray[np.uint64], there: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Bool [n]: a bit that the claim compares is not what it was. differs: uint64 [n, WORDS], bits
    that changed; there: the true words."""
    word = differs[:, claim.word]
    if claim.kind is Kind.CONSTANT:
        return (word & np.uint64(claim.mask)) != 0
    if claim.kind is Kind.EQUAL:
        mine = word >> np.uint64(claim.shift) & np.uint64(claim.mask)
        theirs = differs[:, claim.other] >> np.uint64(claim.value) & np.uint64(claim.mask)
        return (mine | theirs) != 0
    if claim.kind is Kind.OFFSET:
        return (word | differs[:, claim.other]) != 0
    if claim.kind is Kind.MASKED:
        out = np.zeros(len(word), np.bool_)
        lane = np.uint64((1 << claim.shift) - 1)
        for number in range(64 // claim.shift):
            bit = claim.value + number
            if 0 <= bit < 64:
                off = there[:, claim.other] >> np.uint64(bit) & np.uint64(1) == 0
                part = word & np.uint64(claim.mask) & lane << np.uint64(number * claim.shift)
                turned = differs[:, claim.other] >> np.uint64(bit) & np.uint64(1) != 0
                out |= off & (part != 0) | turned
        return out
    return word != 0


def skew(
    trace: Trace, steps: int, spoken: Mapping[int, tuple[Claim, ...]], path: Path
) -> SkewScore:
    """Gives every sample the IP of `steps` instructions later and counts what comes of it."""
    count = len(trace.truth)
    rows = np.arange(max(0, -steps), count - max(0, steps))
    rows = rows[trace.truth.ip[rows] != trace.truth.ip[rows + steps]]
    told = executed(trace.truth, rows.tolist()).with_sets(SET)
    there = executed(trace.truth, (rows + steps).tolist())
    told.ip = there.ip.copy()
    told.sets[SET].gprs[:, IP_COLUMN] = there.ip
    told.time_ns = 1_000_000_000 + 1000 * np.arange(len(rows), dtype=np.uint64)
    right = words_of(there)
    differs = words_of(told) ^ right
    affected, about = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for ip in np.unique(told.ip).tolist():
        here = np.flatnonzero(told.ip == ip)
        for claim in spoken[ip]:
            affected[here] |= _touched(claim, differs[here], right[here])
            about[here] |= differs[here, claim.word] != 0
            if claim.other != NO_WORD:
                about[here] |= differs[here, claim.other] != 0
    found = look(sw.recording(told, M, sideband=trace.side), path, told)
    verdict, reason = found.verdict[SET], found.reason[SET]
    doubted = (verdict != np.uint8(Verdict.COHERENT)).any(axis=1)
    late = (reason & np.uint64(REASONS["code-skid"].mask)) != 0
    proved = (reason & np.uint64(REASONS["code-proved"].mask)) != 0
    return SkewScore(
        steps, len(rows), int((differs != 0).any(axis=1).sum()), int(about.sum()),
        int(affected.sum()),
        int((affected & doubted).sum()), int((affected & late).sum()),
        int((affected & ~doubted & proved).sum()), int((~affected & doubted).sum()),
    )  # fmt: skip
