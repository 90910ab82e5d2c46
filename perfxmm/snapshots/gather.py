"""The columns of a batch under construction: values copied from where a walk found them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from perfxmm.kernel.layout import SetPlan
from perfxmm.snapshots.batch import I64, U64, VERDICT_CLASSES, RegisterSet
from perfxmm.snapshots.records import gather
from perfxmm.snapshots.walk import R2_CUT_REGISTERS, SIMD_HEADER_WORDS, Walk

PREDICATE_COLUMNS = 8
ALL_COLUMNS = frozenset({"gprs", "vectors", "predicates", "chain"})


class SetColumns:
    """One register set's columns for n samples, filled event by event.

    rows: which of the n samples a walk's samples are; None where they are all n in order, which
    lets the gathered array become the column itself instead of being copied into one.
    """

    def __init__(
        self, name: str, n: int, plans: Sequence[SetPlan], columns: Iterable[str]
    ) -> None:
        self.name = name
        self.n = n
        self.columns = frozenset(columns)
        self.gpr_ids = tuple(sorted({number for plan in plans for number in plan.gpr_ids}))
        self.registers = max((plan.registers for plan in plans), default=0)
        self.qwords = max((plan.qwords for plan in plans), default=0)
        self.predicate_columns = (
            PREDICATE_COLUMNS if any(plan.pred_registers for plan in plans) else 0
        )
        self.abi = np.zeros(n, np.uint8)
        self.gpr_mask = np.zeros(n, np.uint64)
        self.header = np.zeros(n, np.uint64)
        self.vector_mask = np.zeros(n, np.uint32)
        self.delivered_vectors = np.zeros(n, np.uint8)
        self.delivered_qwords = np.zeros(n, np.uint8)
        self.delivered_predicates = np.zeros(n, np.uint8)
        self.predicate_mask = np.zeros(n, np.uint8)
        self.gprs: U64 | None = None
        self.vectors: U64 | None = None
        self.predicates: U64 | None = None
        self.xstate_bv: U64 | None = None
        self.asked_components: U64 | None = None

    def add(self, words: U64, walk: Walk, plan: SetPlan, rows: I64 | None) -> None:
        """Copies the set of every sample of `walk` that has one."""
        abi, header = walk.abi[self.name], walk.header[self.name]
        place = slice(None) if rows is None else rows
        self.abi[place] = abi
        self.header[place] = header
        if walk.alike:
            if abi[0]:
                self._add_alike(words, walk, plan, None, rows)
            return
        # What decides the layout of a set, in one number; few different ones occur.
        key = header << np.uint64(4) | abi
        first = key[0] if len(key) else np.uint64(0)
        if len(key) and bool(np.all(key == first)):
            if abi[0]:
                self._add_alike(words, walk, plan, None, rows)
            return
        for value in np.unique(key):
            if value & np.uint64(15):
                self._add_alike(words, walk, plan, np.flatnonzero(key == value), rows)

    def _add_alike(
        self, words: U64, walk: Walk, plan: SetPlan, some: I64 | None, rows: I64 | None
    ) -> None:
        """Adds samples whose sets have the same layout: `some` of the walk's, or all of them."""
        at = walk.at[self.name] if some is None else walk.at[self.name][some]
        one = 0 if some is None else int(some[0])
        stride = walk.stride if some is None else None
        target: I64 | slice
        if some is None:
            target = slice(None) if rows is None else rows
        else:
            target = some if rows is None else rows[some]
        self.gpr_mask[target] = plan.gpr_mask
        body = at + 1
        if plan.gpr_ids and "gprs" in self.columns:
            self._put_gprs(gather(words, body, plan.words, stride), plan, target)
        if plan.xmm_registers:
            self._put_legacy(words, body, stride, plan, target)
        if not int(walk.abi[self.name][one]) & 4:
            return
        header = int(walk.header[self.name][one])
        nr, qwords, nr_pred, pred_qwords = (header >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        self.delivered_vectors[target] = nr
        self.delivered_qwords[target] = qwords
        body = body + plan.words + SIMD_HEADER_WORDS[plan.header]
        stored = walk.stored[self.name][one]
        registers = plan.vec_registers[:nr]
        if nr < len(plan.vec_registers):
            # Fewer than asked for: the upper 16 were missing, whatever stands in their place.
            registers = tuple(r for r in registers if r < R2_CUT_REGISTERS)
        if qwords:
            self.vector_mask[target] = sum(1 << r for r in registers)
            # Kernels give qwords as asked for also where there is no register.
            if "vectors" in self.columns and registers:
                values = gather(words, body, nr * qwords, stride).reshape(len(at), nr, qwords)
                self._put_vectors(values, registers, target)
        if pred_qwords:
            predicates = plan.pred_registers[:nr_pred]
            self.delivered_predicates[target] = nr_pred
            self.predicate_mask[target] = sum(1 << r for r in predicates)
            if "predicates" in self.columns and nr_pred:
                values = gather(
                    words, body + int(stored) * qwords, nr_pred * pred_qwords, stride
                )
                self._put_predicates(values, predicates, target)

    def _put_gprs(self, values: U64, plan: SetPlan, target: I64 | slice) -> None:
        picked = values
        if plan.gpr_words != tuple(range(values.shape[1])):
            first = plan.gpr_words[0]
            if plan.gpr_words == tuple(range(first, first + len(plan.gpr_words))):
                picked = np.ascontiguousarray(values[:, first : first + len(plan.gpr_words)])
            else:
                picked = values[:, list(plan.gpr_words)]
        if isinstance(target, slice) and plan.gpr_ids == self.gpr_ids:
            self.gprs = picked
            return
        gprs = self.gprs_to_fill()
        columns = [self.gpr_ids.index(number) for number in plan.gpr_ids]
        if isinstance(target, slice):
            gprs[:, columns] = picked
        else:
            gprs[target[:, None], columns] = picked

    def _put_legacy(
        self, words: U64, body: I64, stride: int | None, plan: SetPlan, target: I64 | slice
    ) -> None:
        registers, places = plan.xmm_registers, plan.xmm_words
        self.vector_mask[target] = sum(1 << r for r in registers)
        self.delivered_vectors[target] = len(registers)
        self.delivered_qwords[target] = 2
        if "vectors" not in self.columns:
            return
        first, width = places[0], places[-1] + 2 - places[0]
        values = gather(words, body + first, width, stride)
        if width != 2 * len(registers):
            halves = [place - first + half for place in places for half in (0, 1)]
            values = values[:, halves]
        self._put_vectors(values.reshape(len(body), len(registers), 2), registers, target)

    def _put_vectors(
        self, values: U64, registers: tuple[int, ...], target: I64 | slice
    ) -> None:
        values = values[:, : len(registers)]
        dense = registers == tuple(range(len(registers)))
        whole = dense and values.shape[1:] == (self.registers, self.qwords)
        if isinstance(target, slice) and whole:
            self.vectors = values
            return
        vectors = self.vectors_to_fill()
        qwords = values.shape[2]
        if dense:
            vectors[target, : len(registers), :qwords] = values
        elif isinstance(target, slice):
            vectors[:, list(registers), :qwords] = values
        else:
            vectors[target[:, None], list(registers), :qwords] = values

    def _put_predicates(
        self, values: U64, predicates: tuple[int, ...], target: I64 | slice
    ) -> None:
        if isinstance(target, slice) and len(predicates) == self.predicate_columns:
            self.predicates = values
            return
        columns = self.predicates_to_fill()
        if isinstance(target, slice):
            columns[:, list(predicates)] = values
        else:
            columns[target[:, None], list(predicates)] = values

    def gprs_to_fill(self) -> U64:
        """The column of general registers, zeros until filled; for values from elsewhere."""
        if self.gprs is None:
            self.gprs = np.zeros((self.n, len(self.gpr_ids)), np.uint64)
        return self.gprs

    def vectors_to_fill(self) -> U64:
        """As gprs_to_fill, uint64 [n, registers, qwords]."""
        if self.vectors is None:
            self.vectors = np.zeros((self.n, self.registers, self.qwords), np.uint64)
        return self.vectors

    def predicates_to_fill(self) -> U64:
        """As gprs_to_fill, uint64 [n, predicates]."""
        if self.predicates is None:
            self.predicates = np.zeros((self.n, self.predicate_columns), np.uint64)
        return self.predicates

    def finish(self) -> RegisterSet:
        """The set; columns that nobody filled are there, empty or zero."""
        n = self.n
        empty = np.zeros((n, 0), np.uint64)
        gprs, vectors, predicates = self.gprs, self.vectors, self.predicates
        if gprs is None:
            gprs = np.zeros((n, len(self.gpr_ids)), np.uint64) if "gprs" in self.columns else empty
        if vectors is None:
            shape = (self.registers, self.qwords) if "vectors" in self.columns else (0, 0)
            vectors = np.zeros((n, *shape), np.uint64)
        if predicates is None:
            predicates = np.zeros(
                (n, self.predicate_columns if "predicates" in self.columns else 0), np.uint64
            )
        return RegisterSet(
            name=self.name, abi=self.abi, gpr_ids=self.gpr_ids if "gprs" in self.columns else (),
            gprs=gprs, gpr_mask=self.gpr_mask, vectors=vectors, vector_mask=self.vector_mask,
            delivered_vectors=self.delivered_vectors, delivered_qwords=self.delivered_qwords,
            predicates=predicates, delivered_predicates=self.delivered_predicates,
            xstate_bv=self.xstate_bv, verdict=np.zeros((n, len(VERDICT_CLASSES)), np.uint8),
            reason=np.zeros(n, np.uint64), predicate_mask=self.predicate_mask, header=self.header,
            asked_components=self.asked_components,
        )  # fmt: skip
