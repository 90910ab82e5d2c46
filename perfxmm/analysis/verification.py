"""How often registers contradict the code they were sampled at: counted, with uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.intervals import wilson
from perfxmm.analysis.names import CODE_OFFSET, NameTables
from perfxmm.analysis.shown import IP_ID, attributed_ip
from perfxmm.coherence.model import VERDICT_CLASSES, SnapshotBatch
from perfxmm.coherence.witness.asking import Witness
from perfxmm.coherence.witness.statement import Statement
from perfxmm.coherence.witness.story import CodeStory, code_story

I64 = npt.NDArray[np.int64]
# Examples are kept for so many places at most while reading; the worst of them are shown.
_KEPT_PLACES = 512
_NOTHING_KNOWN = (
    "the code is known, but leaves no known value, or cannot be followed (a jump's target, an "
    "indirect jump in the function)"
)


@dataclass(slots=True)
class Tally:
    """Samples in which the code proved, contradicted or said nothing."""

    proved: int = 0
    contradicted: int = 0
    silent: int = 0

    @property
    def spoken(self) -> int:
        return self.proved + self.contradicted

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of contradicted among spoken; (0, 1) where none is."""
        return wilson(self.contradicted, self.spoken)

    def add(self, proved: int, contradicted: int, asked: int) -> None:
        self.proved += proved
        self.contradicted += contradicted
        self.silent += asked - proved - contradicted

    def to_dict(self) -> dict[str, object]:
        rate = self.contradicted / self.spoken if self.spoken else None
        return {
            "proved": self.proved, "contradicted": self.contradicted, "silent": self.silent,
            "rate": rate, "interval_95": list(self.interval) if self.spoken else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Example:
    """One contradicted sample, of the place with the most of them.

    samples: contradicted ones at this place. sample: its index in the recording, in reading order.
    skid: how many instructions on from the IP the registers fit, 0 where they fit nowhere near.
    """

    sample: int
    time_ns: int
    set_name: str
    event: str
    symbol: str
    symbol_offset: int
    dso: str
    ip: int
    samples: int
    skid: int
    story: CodeStory


@dataclass(slots=True)
class Verification:
    """What `verify` found.

    samples: read; asked: those with registers that are believed without the code. total: by
    sample. classes: by (register set's) class of VERDICT_CLASSES; events, symbols: by name, a
    sample counting once. skids: contradicted samples that fit a few instructions on, by how many.
    silent_places: why the code was not asked -> samples.
    """

    samples: int = 0
    asked: int = 0
    total: Tally = field(default_factory=Tally)
    classes: dict[str, Tally] = field(default_factory=dict)
    events: dict[str, Tally] = field(default_factory=dict)
    symbols: list[tuple[str, str, Tally]] = field(default_factory=list)
    skids: dict[int, int] = field(default_factory=dict)
    silent_places: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


class Verifier:
    """Adds up the statements of batches.

    names: the recording's tables. witness: asked again for the examples' stories, and only then.
    unproved: why a DSO's code is not asked, "" where it is.
    """

    def __init__(
        self, names: NameTables, witness: Callable[[], Witness], unproved: Callable[[int], str],
        examples: int = 3,
    ) -> None:
        self._names = names
        self._witness = witness
        self._unproved = unproved
        self._wanted = examples
        self._found = Verification(classes={name: Tally() for name in VERDICT_CLASSES})
        self._symbols: dict[tuple[int, int], Tally] = {}
        self._examples: dict[tuple[int, int], list[Example]] = {}

    @property
    def samples(self) -> int:
        return self._found.samples

    def add(self, batch: SnapshotBatch) -> None:
        """A batch of Recording.judged with every verdict kept, before anything is selected."""
        found, n = self._found, len(batch)
        asked, proved, wrong = (np.zeros(n, np.uint8) for _ in range(3))
        for name in batch.sets:
            statement = Statement.of(batch, name)
            asked |= statement.asked
            proved |= statement.proved
            wrong |= statement.contradicted
            for steps, count in enumerate(np.bincount(statement.skid).tolist()):
                if steps and count:
                    found.skids[steps] = found.skids.get(steps, 0) + count
            self._keep_examples(batch, name, statement)
        proved &= ~wrong
        for column, class_name in enumerate(VERDICT_CLASSES):
            bit = np.uint8(1 << column)
            found.classes[class_name].add(*(
                int(np.count_nonzero(bits & bit)) for bits in (proved, wrong, asked)
            ))  # fmt: skip
        any_wrong, any_asked = wrong != 0, asked != 0
        any_proved = (proved != 0) & ~any_wrong
        found.samples += n
        found.asked += int(np.count_nonzero(any_asked))
        found.total.add(*(int(np.count_nonzero(m)) for m in (any_proved, any_wrong, any_asked)))
        self._by_event(batch, any_proved, any_wrong, any_asked)
        self._by_symbol(batch, any_proved, any_wrong, any_asked)
        if batch.dso is not None:
            quiet = any_asked & ~any_proved & ~any_wrong
            for dso, count in zip(
                *(x.tolist() for x in np.unique(batch.dso[quiet], return_counts=True)), strict=True
            ):
                why = "no file is known for the address"
                if dso >= 0:
                    why = self._unproved(dso) or _NOTHING_KNOWN
                found.silent_places[why] = found.silent_places.get(why, 0) + count

    def _by_event(
        self, batch: SnapshotBatch, proved: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_],
        asked: npt.NDArray[np.bool_],
    ) -> None:
        size = len(self._names.events)
        counts = [np.bincount(batch.event[mask], minlength=size) for mask in (proved, wrong, asked)]
        for number in np.flatnonzero(counts[2]).tolist():
            tally = self._found.events.setdefault(self._names.events[number], Tally())
            tally.add(*(int(count[number]) for count in counts))

    def _by_symbol(
        self, batch: SnapshotBatch, proved: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_],
        asked: npt.NDArray[np.bool_],
    ) -> None:
        if batch.symbol is None or batch.dso is None:
            return
        keys = batch.symbol.astype(np.int64) << 32 | (batch.dso.astype(np.int64) & 0xFFFF_FFFF)
        different, inverse = np.unique(keys[asked], return_inverse=True)
        inverse = inverse.reshape(-1)
        counts = [
            np.bincount(inverse[mask[asked]], minlength=len(different))
            for mask in (proved, wrong, asked)
        ]
        for at, key in enumerate(different.tolist()):
            dso = key & 0xFFFF_FFFF
            place = (key >> 32, dso if dso < 1 << 31 else -1)
            tally = self._symbols.setdefault(place, Tally())
            tally.add(*(int(count[at]) for count in counts))

    def _keep_examples(self, batch: SnapshotBatch, name: str, statement: Statement) -> None:
        """One sample for each contradicted place, with its story; how many there are is counted."""
        if batch.dso is None or CODE_OFFSET not in batch.extra:
            return
        ip = attributed_ip(batch)
        # A late snapshot that lost its verdict now counts for another place than its own.
        own = batch.sets[name].gpr(IP_ID)
        here = np.ones(len(batch), np.bool_) if own is None else own == ip
        rows = np.flatnonzero((statement.contradicted != 0) & here)
        for row in rows.tolist():
            dso, offset = int(batch.dso[row]), int(batch.extra[CODE_OFFSET][row])
            kept = self._examples.get((dso, offset))
            if kept is not None:
                kept.append(kept[0])
                continue
            if len(self._examples) >= _KEPT_PLACES:
                continue
            story = code_story(
                self._witness().code, batch, batch.sets[name], row, ip, dso, offset,
                believed=int(statement.asked[row]),
            )  # fmt: skip
            symbol = -1 if batch.symbol is None else int(batch.symbol[row])
            past = 0 if batch.symbol_offset is None else int(batch.symbol_offset[row])
            self._examples[dso, offset] = [Example(
                self._found.samples + row, int(batch.time_ns[row]), name,
                self._names.events[int(batch.event[row])],
                self._names.symbols[symbol] if symbol >= 0 else "", past,
                self._names.dsos[dso], int(ip[row]), 0, int(statement.skid[row]), story,
            )]  # fmt: skip

    def finish(self, limit: int | None = None) -> Verification:
        """The sums. Symbols: those with the most contradictions first, then the most samples; at
        most `limit` of them."""
        found = self._found
        ranked = sorted(
            self._symbols.items(),
            key=lambda item: (-item[1].contradicted, -item[1].spoken, -item[1].silent, item[0]),
        )
        names = self._names
        found.symbols = [
            (names.symbols[symbol] if symbol >= 0 else "", names.dsos[dso] if dso >= 0 else "", t)
            for (symbol, dso), t in ranked[:limit]
        ]
        worst = sorted(self._examples.values(), key=lambda kept: (-len(kept), kept[0].sample))
        found.examples = [replace(kept[0], samples=len(kept)) for kept in worst[: self._wanted]]
        return found

