"""Walking records of many sizes in many places at once.

Each header says where the next one is, so a walk is a chain of dependent reads, and in Python a
chain of interpreted steps. Here a stretch is cut into lanes. A word that looks like a header is
taken for one near the beginning of each lane, all lanes are walked in step, and a lane's walk
proves the next lane's guess where it arrives at exactly that word. Only what is proven is
returned, so a wrong guess (register values and stack bytes can look like headers) costs time and
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# header.type and header.misc; header.size is in the upper 16 bits, in bytes.
_KIND = np.uint64((1 << 48) - 1)
_SIZE_SHIFT = np.uint64(48)
_WORDS_SHIFT = np.uint64(51)
_UNEVEN = np.uint64(7 << 48)

# Per lane: about so many records, and no more than so many lanes.
_LANE_RECORDS = 40
_MOST_LANES = 1024
_LEAST_LANES = 8
# A lane may need so many times the expected steps before it is given up.
_PATIENCE = 4
# Words searched for a header, in expected distances between headers of the kind looked for.
_SEARCH = 4
_MOST_SEARCH_WORDS = 1024


@dataclass(frozen=True, slots=True)
class Kinds:
    """What records looked like so far: the commonest type and misc, every how many words it
    occurs, and the mean record length in words."""

    key: np.uint64
    distance: float
    mean_words: float


def kinds_of(headers: U64) -> Kinds:
    """Of at least one header."""
    kinds = np.sort(headers & _KIND)
    begins = np.flatnonzero(np.concatenate([[True], kinds[1:] != kinds[:-1]]))
    counts = np.diff(begins, append=len(kinds))
    most = int(counts.argmax())
    words = int((headers >> _WORDS_SHIFT).sum())
    return Kinds(
        kinds[begins[most]], max(1.0, words / int(counts[most])), max(1.0, words / len(headers))
    )


def walk_lanes(words: U64, first: int, last: int, kinds: Kinds) -> tuple[I64, U64, int]:
    """The records that begin in words[first:last], as far as they are proven.

    first: where a record begins. Every record that begins before `last` must end inside `words`,
    whatever its size says: leave 64 KiB behind it.
    Returns (word of each record, its header, word where the next record begins). Nothing where
    the stretch is too short to be worth it. A header whose size is 0 or no multiple of 8 ends
    what is returned, and is not in it.
    """
    records = (last - first) / kinds.mean_words
    lanes = min(_MOST_LANES, int(records / _LANE_RECORDS))
    nothing = np.empty(0, np.int64), np.empty(0, np.uint64), first
    if lanes < _LEAST_LANES:
        return nothing
    begins = _guesses(words, first, last, lanes, kinds)
    ends = np.append(begins[1:], last)
    steps = int(records / lanes * _PATIENCE) + 2
    found, headers, at = _walk(words, begins, ends, steps)
    # Lanes up to the first that does not arrive where the next began are proven.
    astray = at != ends
    astray[-1] = True
    lane = int(astray.argmax())
    valid = found[: lane + 1] < ends[: lane + 1, None]
    positions, proven = found[: lane + 1][valid], headers[: lane + 1][valid]
    after = int(at[lane])
    bad = ((proven & _UNEVEN) != 0) | (proven >> _SIZE_SHIFT == 0)
    if bad.any():
        count = int(bad.argmax())
        after = int(positions[count])
        positions, proven = positions[:count], proven[:count]
    return positions, proven, after


def _guesses(words: U64, first: int, last: int, lanes: int, kinds: Kinds) -> I64:
    """int64: `first`, and a word near the beginning of each other lane that may be a header."""
    lane_words = (last - first) // lanes
    search = max(8, min(int(kinds.distance * _SEARCH), _MOST_SEARCH_WORDS, lane_words))
    step = words.strides[0]
    windows: U64 = np.ndarray(
        (lanes - 1, search), words.dtype, words, (first + lane_words) * step,
        (lane_words * step, step),
    )  # fmt: skip
    like = (windows & _KIND) == kinds.key
    place = like.argmax(axis=1)
    seen = like[np.arange(lanes - 1), place]
    starts = first + lane_words * np.arange(1, lanes) + place
    return np.concatenate([[first], starts[seen]])


def _walk(words: U64, begins: I64, ends: I64, steps: int) -> tuple[I64, U64, I64]:
    """(word of each record [lanes, s], its header, word that each lane arrived at).

    Lanes go on past their ends until all are there or `steps` are done; what a lane passes behind
    its end is of no interest.
    """
    found = np.empty((steps + 1, len(begins)), np.int64)
    headers = np.empty((steps, len(begins)), np.uint64)
    found[0] = begins
    done = steps
    for step in range(steps):
        # Clipped: a lane that has passed its end may be anywhere.
        words.take(found[step], out=headers[step], mode="clip")
        length = (headers[step] >> _WORDS_SHIFT).view(np.int64)
        np.add(found[step], length, out=found[step + 1])
        if step % 8 == 7 and bool((found[step + 1] >= ends).all()):
            done = step + 1
            break
    passed = found[: done + 1]
    # The first place at or behind the end; the last one where a lane did not get there.
    arrival = np.minimum((passed < ends).sum(axis=0), done)
    at = passed[arrival, np.arange(len(begins))]
    return passed[:done].T, headers[:done].T, at
