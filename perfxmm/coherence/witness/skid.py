"""Whether registers that contradict the code at their IP fit a place a few instructions on.

An interrupt that comes late finds registers that have run on: from the IP's state along one of the
paths that code can take from there. Such a path explains them if everything that is known behind it
holds, and something that the path itself wrote is among it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import iced_x86 as iced

from perfxmm.coherence.witness.claims import Claim, claims_of, first_word
from perfxmm.coherence.witness.places import Known
from perfxmm.program.effects import apply, interrupted
from perfxmm.program.flow import Function
from perfxmm.program.values import Values

# How far a late interrupt is followed, and how many places are looked at where paths part.
MOST_INSTRUCTIONS = 12
_MOST_PLACES = 32
_Flow = iced.FlowControl


@dataclass(frozen=True, slots=True)
class Downstream:
    """A place on from the IP. claims: what holds there if the path was taken. written: those of
    them that speak of a word that the path changed."""

    instructions: int
    address: int
    claims: tuple[Claim, ...]
    written: tuple[Claim, ...]


def downstream(known: Known) -> Iterator[Downstream]:
    """The places that can be reached from `known`'s, nearest first."""
    function, start = known.function, known.values
    if function is None or start is None:
        return
    queue: deque[tuple[int, int, Values]] = deque([(0, known.address, start)])
    places = 0
    while queue and places < _MOST_PLACES:
        steps, address, values = queue.popleft()
        instruction = function.decode(address).decode()
        if steps:
            places += 1
            yield _place(steps, address, instruction, start, values, known.address)
        if steps == MOST_INSTRUCTIONS:
            continue
        following = _next(function, instruction)
        if following:
            ran = values.copy()
            apply(ran, instruction)
            queue += [(steps + 1, target, ran) for target in following]


def _place(
    steps: int, address: int, instruction: iced.Instruction, start: Values, values: Values,
    sampled: int,
) -> Downstream:
    there = values.copy()
    interrupted(there, instruction)
    # The IP that addresses are compared with is still the sampled one.
    claims = tuple(claims_of(there, sampled))
    changed = {
        first_word(register) + at // 2
        for register, parts in there.parts.items()
        for at in range(0, len(parts), 2)
        if parts[at : at + 2] != start.get(register)[at : at + 2]
    }
    return Downstream(steps, address, claims, tuple(c for c in claims if c.word in changed))


def _next(function: Function, instruction: iced.Instruction) -> list[int]:
    """Where control can go from an instruction without leaving the function."""
    flow = instruction.flow_control
    found: list[int] = []
    if flow in (_Flow.NEXT, _Flow.CONDITIONAL_BRANCH):
        found.append(instruction.next_ip)
    if flow in (_Flow.UNCONDITIONAL_BRANCH, _Flow.CONDITIONAL_BRANCH):
        found.append(instruction.near_branch_target)
    return [address for address in found if function.at(address)]
