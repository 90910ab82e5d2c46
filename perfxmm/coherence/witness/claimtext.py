"""Claims in words: bit ranges as the Intel manual writes them, highest bit first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from perfxmm.coherence.witness.claims import FIRST_GPR, FIRST_OPMASK, Claim, Kind
from perfxmm.snapshots.vocabulary import GPR_NAMES

_ALL = (1 << 64) - 1
_WHOLE = {128: "xmm", 256: "ymm", 512: "zmm"}


def word_name(word: int, low: int = 0, high: int = 63) -> str:
    """Bits low..high of one word."""
    return range_name(word, word, low, high)


def range_name(first: int, last: int, low: int = 0, high: int = 63) -> str:
    """Words first..last of one register, from bit `low` of the first to `high` of the last."""
    if first >= FIRST_OPMASK:
        gpr = first >= FIRST_GPR
        name = _gpr_name(first - FIRST_GPR) if gpr else f"k{first - FIRST_OPMASK}"
        return name if (low, high) == (0, 63) else f"{name}[{high}:{low}]"
    register, qword = divmod(first, 8)
    bottom, top = 64 * qword + low, 64 * (last % 8) + high
    if bottom == 0 and top + 1 in _WHOLE and not (register >= 16 and top != 511):
        return f"{_WHOLE[top + 1]}{register}"
    width = next(bits for bits in _WHOLE if bits > top or bits == 512)
    return f"{_WHOLE[512 if register >= 16 else width]}{register}[{top}:{bottom}]"


def _gpr_name(number: int) -> str:
    name = GPR_NAMES[number].lower()
    return name if name[0] == "r" or name == "ssp" else f"r{name}"


def texts(claims: Iterable[Claim]) -> list[str]:
    """One line for each register part that something is known of, in register order."""
    lines: list[tuple[int, str]] = []
    by_kind: dict[Kind, list[Claim]] = {}
    for claim in claims:
        by_kind.setdefault(claim.kind, []).append(claim)
    for run in _runs(by_kind.get(Kind.CONSTANT, []), _same_constant):
        lines.append((run[0].word, _constant(run)))
    for claim in by_kind.get(Kind.PLACE, []):
        lines.append((claim.word, f"{word_name(claim.word)} = IP {_signed(claim.value)}"))
    for claim in by_kind.get(Kind.OFFSET, []):
        there = f"{word_name(claim.other)} {_signed(claim.value)}"
        lines.append((claim.word, f"{word_name(claim.word)} = {there}"))
    for run in _runs(by_kind.get(Kind.EQUAL, []), _same_move):
        lines.append((run[0].word, _equal(run)))
    for run in _runs(by_kind.get(Kind.REPEATS, []), _same_repeat):
        name = range_name(run[0].word, run[-1].word)
        lines.append((run[0].word, f"all {run[0].shift}-bit lanes of {name} are equal"))
    for run in _runs(by_kind.get(Kind.MASKED, []), _same_mask):
        name = range_name(run[0].word, run[-1].word)
        lines.append((
            run[0].word,
            f"{run[0].shift}-bit lanes of {name} are 0 where {word_name(run[0].other)} is",
        ))  # fmt: skip
    return [line for _, line in sorted(lines, key=lambda line: line[0])]


def _signed(value: int) -> str:
    """A number modulo 2**64 with its sign in front."""
    return f"- {(1 << 64) - value:#x}" if value >> 63 else f"+ {value:#x}"


def _runs(
    claims: Sequence[Claim], alike: Callable[[list[Claim], Claim], bool],
) -> Iterator[list[Claim]]:
    """Neighbouring words of one register whose claims are alike. alike: whether a claim goes on
    with what a run has so far."""
    run: list[Claim] = []
    for claim in sorted(claims):
        if run and (
            claim.word != run[-1].word + 1 or claim.word % 8 == 0 or claim.word >= FIRST_OPMASK
            or not alike(run, claim)
        ):
            yield run
            run = []
        run.append(claim)
    if run:
        yield run


def _same_constant(run: list[Claim], claim: Claim) -> bool:
    return (run[-1].mask, run[-1].value) == (claim.mask, claim.value) == (_ALL, claim.value)


def _same_move(run: list[Claim], claim: Claim) -> bool:
    if (claim.mask, run[-1].mask) != (_ALL, _ALL):
        return False
    moved = claim.other - claim.word == run[-1].other - run[-1].word
    again = claim.other == run[-1].other
    return again or (moved and (len(run) == 1 or run[0].other != run[-1].other))


def _same_repeat(run: list[Claim], claim: Claim) -> bool:
    return claim.shift == run[-1].shift


def _same_mask(run: list[Claim], claim: Claim) -> bool:
    return (claim.other, claim.shift, claim.mask) == (run[-1].other, run[-1].shift, run[-1].mask)


def _constant(run: list[Claim]) -> str:
    first, mask = run[0], run[0].mask
    name = range_name(first.word, run[-1].word)
    if mask == _ALL:
        if first.value == 0 or len(run) == 1:
            return f"{name} = {first.value:#x}" if first.value else f"{name} = 0"
        return f"each 64 bits of {name} = {first.value:#x}"
    low, high = (mask & -mask).bit_length() - 1, mask.bit_length() - 1
    if mask == (1 << high + 1) - (1 << low):
        value = first.value >> low
        return f"{word_name(first.word, low, high)} = {value:#x}" if value else (
            f"{word_name(first.word, low, high)} = 0")  # fmt: skip
    return f"{name} & {mask:#x} = {first.value:#x}"


def _equal(run: list[Claim]) -> str:
    first, last = run[0], run[-1]
    if first.mask != _ALL:
        bits = first.mask.bit_length() - 1
        left = word_name(first.word, first.shift, first.shift + bits)
        return f"{left} = {word_name(first.other, first.value, first.value + bits)}"
    left = range_name(first.word, last.word)
    if len(run) > 1 and first.other == last.other:
        return f"each 64 bits of {left} = {word_name(first.other)}"
    return f"{left} = {range_name(first.other, last.other)}"
