"""Reads and judges a whole recording for tests, by the rooms' own functions and nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfxmm.coherence import EventContext, JudgeContext, judge
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, EGPR_MASK, SSP_MASK
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import Decoder

SETS = {"user": SampleType.REGS_USER, "intr": SampleType.REGS_INTR}


def classes_asked(attr: EventAttr, name: str) -> frozenset[str]:
    """Register classes that `attr` asks for in one set."""
    if not attr.has(SETS[name]):
        return frozenset()
    gprs = attr.gpr_mask(name)
    simd = attr.simd
    vectors = simd.vec_user if name == "user" else simd.vec_intr
    predicates = simd.pred_user if name == "user" else simd.pred_intr
    wide = {2: "xmm", 4: "ymm", 8: "zmm"}.get(simd.vec_qwords)
    found = {
        "gpr": bool(gprs & CLASSIC_GPR_MASK),
        "egpr": bool(gprs & EGPR_MASK),
        "ssp": bool(gprs & SSP_MASK),
        "xmm": bool(attr.legacy_xmm_mask(name)),
        "opmask": bool(attr.simd_enabled and predicates),
    }
    if attr.simd_enabled and vectors and wide:
        found[wide] = True
    return frozenset(name for name, asked in found.items() if asked)


def event_context(attr: EventAttr) -> EventContext:
    return EventContext(
        dialect=attr.dialect.name,
        precise_ip=attr.precise_ip,
        exclude_kernel=attr.flag(AttrFlag.EXCLUDE_KERNEL),
        simd_enabled=attr.simd_enabled,
        classes={name: classes_asked(attr, name) for name in SETS},
    )


def judge_context(reader: Reader, source: str | None = None) -> JudgeContext:
    """What the file itself says. source: overrides the recording's own ("" for perf's)."""
    metadata = reader.metadata
    own = metadata.source if metadata is not None else ""
    return JudgeContext(
        source=own if source is None else source,
        engine=metadata.engine if metadata is not None else "",
        events=tuple(event_context(event.attr) for event in reader.events),
    )


def judged_batches(path: Path | str) -> list[SnapshotBatch]:
    """Every sample of a recording in file order, judged, nothing taken out."""
    reader = Reader(str(path))
    context = judge_context(reader)
    decoder = Decoder(reader.events, stop_info=context.source == "sigtrap")
    batches = [decoder.decode(block) for block in reader.blocks()]
    for batch in batches:
        judge(batch, context)
    return batches


def expected(path: Path) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    """`NAME.data`'s expected.jsonl: its meta object and one object a sample."""
    plain = path.with_name(path.name.removesuffix(".data") + ".expected.jsonl")
    if plain.exists():
        lines = plain.read_text().splitlines()
    else:
        with gzip.open(plain.with_name(plain.name + ".gz"), "rt") as stream:
            lines = stream.read().splitlines()
    head, *samples = [json.loads(line) for line in lines]
    return head["meta"], samples
