"""perfxmm explain: what a verdict, a reason code or a rule means, or all that made one snapshot."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from perfxmm.cli import options
from perfxmm.errors import UsageError

EXAMPLES = """
Examples:

  Why some snapshots are withheld, and by which rules:
    perfxmm explain foreign

  The whole story of the 18th sample of a recording (or of the one at a time that script prints, as
  in 7695.865647062):
    perfxmm explain 17 -i app.perf.data
"""
_SAMPLE = re.compile(r"\d+(?:\.\d{1,9})?", re.ASCII)
_NS_DIGITS = 9


def _names(incomplete: str) -> list[str]:
    from perfxmm.coherence.explain import known_names

    return sorted(name for name in known_names() if name.startswith(incomplete))


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|SAMPLE",
            help="A verdict, reason or rule (all of them without one); or a sample of -i, by its "
            "index (from 0, all samples counted, in time order) or by its time in seconds.",
            autocompletion=_names,
        ),
    ] = None,
    input: options.Input = options.DEFAULT_INPUT,
    unsafe_foreign: options.UnsafeForeign = False,
    unordered: options.Unordered = False,
    symfs: options.Symfs = "",
    dialect: options.Dialect = "",
    as_json: options.AsJson = False,
) -> None:
    """Explain a verdict, a reason code, a rule, or one snapshot of a recording.

    Of a snapshot: what was asked for, what was delivered, which rules match with their sources,
    the verdict of each register class, and the instructions around the IP with what each of them
    proves.
    """
    if name is not None and _SAMPLE.fullmatch(name):
        _sample(name, input, unsafe_foreign, unordered, symfs, dialect, as_json)
        return
    from perfxmm.cli.console import results, write_json
    from perfxmm.coherence import explain as tables

    found = None if name is None else tables.explain(name)
    if as_json:
        write_json(tables.everything() if found is None else found.to_dict())
        return
    from perfxmm.views import explain as view

    results().print(view.overview() if found is None else view.one(found))


def _sample(
    name: str, path: str, unsafe_foreign: bool, unordered: bool, symfs: str, dialect: str,
    as_json: bool,
) -> None:
    policy = options.policy_of("all", "", unsafe_foreign)
    recording = options.open_input(path, symfs, dialect)

    from perfxmm.analysis.snapshotstory import StoryTeller
    from perfxmm.cli.console import progress, write_json
    from perfxmm.kernel.attrtext import describe
    from perfxmm.views.snapshotstory import story_json, story_text

    teller = StoryTeller(recording.names, policy)
    whole, point, part = name.partition(".")
    if point:
        unit = 10 ** (_NS_DIGITS - len(part))
        teller.start_ns = int(whole) * 10**_NS_DIGITS + int(part) * unit
        teller.stop_ns = teller.start_ns + unit
    else:
        teller.index = int(whole)
    story = None
    with progress("looking for the sample") as advance:
        for batch in recording.judged(policy, ordered=not unordered, decoded=teller.decoded):
            story = teller.judged(batch, recording.witness)
            advance(teller.seen)
            if story is not None:
                break
    if story is None:
        raise UsageError(
            f"there is no sample {'at ' if point else ''}{name}", where=recording.path,
            why=f"the recording has {teller.seen:,} samples, from 0",
            next_step="'perfxmm script --keep all -F time,ip,verdict' lists them.",
        )
    attr = describe(recording.events[story.event_number].attr)
    if as_json:
        write_json(story_json(story, attr))
    else:
        sys.stdout.writelines(f"{line}\n" for line in story_text(story, attr))
    sys.stdout.flush()
