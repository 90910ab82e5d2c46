"""Event strings, as perf's -e takes them, turned into attrs.

    cycles:u                          generic hardware, software and cache events
    cpu/event=0xc0,umask=1,inv/pp     a PMU's own terms, from its `format` directory
    cpu/mem-loads,ldlat=30/P          a PMU's named event, from its `events` directory
    r01c2                             a raw code of the core PMU
    sched:sched_switch                a tracepoint
    mem:0x1000/8:rw                   a breakpoint

Two things differ from perf on purpose. Without a u, k or h modifier only user mode is sampled, as
registers of the kernel are not the program's; events that only happen inside the kernel are the
exception, for they would never be seen. And a term given after a named event replaces what the
name had put there, where perf ors both together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from perfxmm.errors import NotSupported, UsageError
from perfxmm.kernel import eventnames, tracefs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.kernel.eventterms import Draft, parse_number, parse_terms, split_outside, take_rate
from perfxmm.kernel.pmus import Pmu, core_pmus, read_pmus

# Hybrid machines: the PMU's type goes above the event number (PERF_PMU_TYPE_SHIFT).
EXTENDED_TYPE_SHIFT = 32
MODIFIERS = frozenset("ukhGHpPIDe")
LEVELS = {
    "u": AttrFlag.EXCLUDE_USER, "k": AttrFlag.EXCLUDE_KERNEL, "h": AttrFlag.EXCLUDE_HV,
}  # fmt: skip
DEFAULT_EXCLUDES = (
    AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV | AttrFlag.EXCLUDE_GUEST | AttrFlag.EXCLUDE_IDLE
)
KERNEL_EXCLUDES = AttrFlag.EXCLUDE_HV | AttrFlag.EXCLUDE_GUEST
# Software events whose place is always in the kernel: excluding it would leave nothing.
KERNEL_ONLY = frozenset({"context-switches", "cs", "cpu-migrations", "migrations", "bpf-output",
                         "cgroup-switches"})  # fmt: skip
MOST_PRECISE = 3
BREAKPOINT_ACCESS = {"r": 1, "w": 2, "x": 4}  # include/uapi/linux/hw_breakpoint.h
BREAKPOINT_LENGTHS = (1, 2, 4, 8)
_RAW = re.compile(r"r([0-9a-fA-F]{1,16})")
_BREAKPOINT = re.compile(
    r"mem:(?P<address>0[xX][0-9a-fA-F]+|[0-9]+)(?:/(?P<length>[^:]*))?"
    r"(?::(?P<access>[rwx]{1,3}))?(?::(?P<modifiers>[^:]*))?"
)


@dataclass(frozen=True, slots=True)
class ResolvedEvent:
    """One event that perf_event_open can be asked for.

    name: as the user wrote it, or the `name=` term; on hybrid machines with the PMU in it.
    attr: type, config*, bp_type, exclude flags, precise_ip; a rate where the string has one, and
    period 1 for tracepoints and breakpoints. `with_rate` fills in the rest.
    cpus: where it counts, None for all. rate_given: the string itself names the rate.
    """

    name: str
    attr: EventAttr
    pmu: str
    cpus: tuple[int, ...] | None = None
    rate_given: bool = False

    def with_rate(
        self, *, period: int | None = None, frequency: int | None = None, default_frequency: int
    ) -> ResolvedEvent:
        """The rate by precedence: the string's own, the option's, the event's usual, the default.

        period and frequency (in Hz) are options as given, at most one of them.
        """
        if self.rate_given:
            return self
        if period is not None:
            attr = replace(self.attr, sample_period=period, flags=self.attr.flags & ~AttrFlag.FREQ)
        elif frequency is not None or not self.attr.sample_period:
            wanted = default_frequency if frequency is None else frequency
            attr = replace(
                self.attr, sample_period=wanted, flags=self.attr.flags | AttrFlag.FREQ
            )
        else:
            return self
        return replace(self, attr=attr)


@dataclass(frozen=True)
class Catalogue:
    """Where event names come from. sysfs: its root, with tracefs below.

    vendor: names from the CPU vendor's tables to event strings ("cpu/event=0xc0/"), one per PMU;
    an empty list for names it does not know.
    """

    sysfs: Path = Path("/sys")
    vendor: Callable[[str], list[str]] | None = None

    @cached_property
    def pmus(self) -> dict[str, Pmu]:
        return read_pmus(self.sysfs)

    @cached_property
    def cores(self) -> list[Pmu]:
        return core_pmus(self.pmus)

    @cached_property
    def aliases(self) -> dict[str, list[Pmu]]:
        """Named events of all PMUs -> the PMUs that have one of that name."""
        found: dict[str, list[Pmu]] = {}
        for pmu in self.pmus.values():
            for name in pmu.event_names():
                found.setdefault(name, []).append(pmu)
        return found

    def names(self) -> list[str]:
        """Every event that has a plain name here, tracepoints and vendor names aside."""
        generic = (*eventnames.HARDWARE, *eventnames.SOFTWARE, *eventnames.cache_names())
        return [*generic, *self.aliases]


def resolve(text: str, catalogue: Catalogue | None = None) -> list[ResolvedEvent]:
    """Every event of a comma list. One name may become several events on a hybrid machine.

    Raises UsageError for what does not exist or makes no sense, NotSupported for what this machine
    does not have, PermissionDenied for tracepoints that may not be looked up.
    """
    catalogue = catalogue or Catalogue()
    found: list[ResolvedEvent] = []
    for token in split_events(text):
        found += _resolve_one(token, catalogue)
    return found


def split_events(text: str) -> list[str]:
    """The events of a comma list; commas between a PMU's slashes do not split."""
    if "{" in text or "}" in text:
        raise UsageError(
            f"groups of events in braces are not sampled: {text!r}",
            next_step="name the events one by one: -e cycles -e instructions",
        )
    tokens = [token.strip() for token in split_outside(text)]
    if not all(tokens):
        raise UsageError(f"an event's name is missing in {text!r}", next_step=_LIST_HINT)
    return tokens


def _resolve_one(token: str, catalogue: Catalogue) -> list[ResolvedEvent]:
    if token.startswith("mem:"):
        return [_breakpoint(token)]
    if "/" in token:
        head, _, rest = token.partition("/")
        terms, slash, tail = rest.rpartition("/")
        if not slash:
            raise UsageError(
                f"the closing slash is missing in {token!r}", next_step="write PMU/term=value/"
            )
        return _with_terms(token, head, terms, tail.removeprefix(":"), catalogue)
    name, colon, rest = token.partition(":")
    if not colon:
        return _plain(token, name, "", catalogue)
    event, second, modifiers = rest.partition(":")
    if second:
        return [_tracepoint(token, name, event, modifiers, catalogue)]
    if not event:
        raise UsageError(f"nothing follows the colon in {token!r}", next_step=_MODIFIER_HINT)
    if _is_known(name, catalogue) or set(event) <= MODIFIERS:
        return _plain(token, name, event, catalogue)
    return [_tracepoint(token, name, event, "", catalogue)]


def _is_known(name: str, catalogue: Catalogue) -> bool:
    return (
        name in eventnames.HARDWARE or name in eventnames.SOFTWARE
        or eventnames.cache_config(name) is not None or _RAW.fullmatch(name) is not None
        or name in catalogue.aliases
    )  # fmt: skip


def _plain(
    token: str, name: str, modifiers: str, catalogue: Catalogue, terms: str = ""
) -> list[ResolvedEvent]:
    """An event known by its name alone."""
    draft = Draft()
    take_rate(draft, parse_terms(terms, token), token)
    number = eventnames.SOFTWARE.get(name)
    if number is not None:
        draft.type, draft.fields["config"] = PerfType.SOFTWARE, number
        excludes = KERNEL_EXCLUDES if name in KERNEL_ONLY else DEFAULT_EXCLUDES
        return [_finish(token, draft, "software", None, modifiers, 0, excludes)]
    raw = _RAW.fullmatch(name)
    for kind, config in (
        (PerfType.HARDWARE, eventnames.HARDWARE.get(name)),
        (PerfType.HW_CACHE, eventnames.cache_config(name)),
        (PerfType.RAW, int(raw[1], 16) if raw else None),
    ):
        if config is not None:
            return _on_cores(token, name, draft, kind, config, modifiers, catalogue)
    by_alias = catalogue.aliases.get(name, [])
    if by_alias:
        joined = f"{name},{terms}" if terms else name
        return [_on_pmu(token, pmu, joined, modifiers, catalogue) for pmu in by_alias]
    if catalogue.vendor is not None:
        # The tables speak of this machine's PMUs; their strings must not lead back to the tables.
        inner = Catalogue(catalogue.sysfs)
        events = [
            event
            for encoding in catalogue.vendor(name)
            for event in _resolve_one(_join(encoding, terms, modifiers), inner)
        ]
        if events:
            return [replace(event, name=token) for event in events]
    raise _unknown(name, catalogue)


def _with_terms(
    token: str, head: str, terms: str, modifiers: str, catalogue: Catalogue
) -> list[ResolvedEvent]:
    """HEAD/terms/: HEAD is a PMU, several PMUs by pattern, or a plain event's name."""
    pmus = _pmus_named(head, catalogue)
    if pmus:
        several = len(pmus) > 1
        return [
            _on_pmu(f"{pmu.name}/{terms}/{modifiers}" if several else token, pmu, terms, modifiers,
                    catalogue)
            for pmu in pmus
        ]  # fmt: skip
    if _is_known(head, catalogue):
        return _plain(token, head, modifiers, catalogue, terms)
    if head in ("cpu", "cpu_core", "cpu_atom"):
        raise _no_core_pmu(token)
    raise UsageError(
        f"there is no PMU {head!r} here",
        why=_did_you_mean(head, catalogue.pmus),
        next_step="PMUs of this machine: " + ", ".join(catalogue.pmus),
    )


def _pmus_named(head: str, catalogue: Catalogue) -> list[Pmu]:
    """By name; by pattern; or all instances: uncore_imc for uncore_imc_0, also without uncore_."""
    exact = catalogue.pmus.get(head)
    if exact is not None:
        return [exact]
    if "*" in head or "?" in head:
        return [pmu for name, pmu in catalogue.pmus.items() if fnmatchcase(name, head)]
    instance = re.compile(rf"(?:uncore_)?{re.escape(head)}(?:_[0-9a-f]+)?")
    return [pmu for name, pmu in catalogue.pmus.items() if instance.fullmatch(name)]


def _on_cores(
    token: str, name: str, draft: Draft, kind: PerfType, config: int, modifiers: str,
    catalogue: Catalogue,
) -> list[ResolvedEvent]:
    cores = catalogue.cores
    if not cores:
        raise _no_core_pmu(token)
    hybrid = len(cores) > 1
    events = []
    for pmu in cores:
        one = draft.copy()
        one.type, one.fields["config"] = kind, config
        label = token
        if hybrid:
            label = f"{pmu.name}/{name}/{modifiers}"
            if kind is PerfType.RAW:
                one.type = pmu.type
            else:
                one.fields["config"] |= pmu.type << EXTENDED_TYPE_SHIFT
        events.append(
            _finish(label, one, pmu.name, pmu.cpus, modifiers, pmu.max_precise(), DEFAULT_EXCLUDES)
        )
    return events


def _on_pmu(
    token: str, pmu: Pmu, terms: str, modifiers: str, catalogue: Catalogue
) -> ResolvedEvent:
    """PMU/terms/: numbers into the places that `format` names, named events expanded."""
    draft = Draft(type=pmu.type)
    formats, aliases = pmu.formats(), pmu.events()
    rest = []
    for term in parse_terms(terms, token):
        if term.value is None and term.name in aliases:
            alias = parse_terms(aliases[term.name], f"{pmu.name}'s event {term.name}")
            rest += take_rate(draft, alias, token, formats)
        else:
            rest += take_rate(draft, [term], token, formats)
    # Only now, so that a value after the event's name fills in or replaces the name's own.
    for term in rest:
        layout = formats.get(term.name)
        if layout is not None:
            if term.value == "?" and any(t.name == term.name and t.value != "?" for t in rest):
                continue
            value = 1 if term.value is None else parse_number(term.value, token, term.name)
            if value > layout.largest:
                raise UsageError(
                    f"{term.name}={term.value} is too large in {token!r}",
                    why=f"the term has {len(layout.bits)} bits", where=f"PMU {pmu.name}",
                    next_step=f"give a value up to {layout.largest:#x}",
                )
            draft.fields[layout.field] = layout.insert(draft.fields.get(layout.field, 0), value)
            continue
        if not _legacy_term(draft, pmu, term.name if term.value is None else "", catalogue):
            known = sorted({*formats, *aliases})
            raise UsageError(
                f"PMU {pmu.name} knows no term {term.name!r}", where=token,
                why=_did_you_mean(term.name, known),
                next_step="its terms and events: " + (", ".join(known[:40]) or "none"),
            )
    return _finish(
        token, draft, pmu.name, pmu.cpus, modifiers, pmu.max_precise(), DEFAULT_EXCLUDES
    )


def _legacy_term(draft: Draft, pmu: Pmu, name: str, catalogue: Catalogue) -> bool:
    """cpu_core/cycles/ and cpu/r01c2/: names that sysfs does not have, on a core PMU."""
    if not pmu.is_core:
        return False
    raw = _RAW.fullmatch(name)
    if raw:
        draft.fields["config"] = int(raw[1], 16)
        return True
    for kind, config in (
        (PerfType.HARDWARE, eventnames.HARDWARE.get(name)),
        (PerfType.HW_CACHE, eventnames.cache_config(name)),
    ):
        if config is not None:
            extended = pmu.type << EXTENDED_TYPE_SHIFT if len(catalogue.cores) > 1 else 0
            draft.type, draft.fields["config"] = kind, config | extended
            return True
    return False


def _tracepoint(
    token: str, system: str, name: str, modifiers: str, catalogue: Catalogue
) -> ResolvedEvent:
    if any(sign in system + name for sign in "*?["):
        raise UsageError(
            f"patterns of tracepoints are not expanded: {token!r}",
            next_step=f"see `perfxmm list tracepoint '{system}:*'` and name the ones you want",
        )
    root = tracefs.find_tracefs(catalogue.sysfs)
    number = tracefs.tracepoint_id(root, system, name)
    if number is None:
        near = difflib.get_close_matches(f"{system}:{name}", tracefs.tracepoints(root), 3)
        raise UsageError(
            f"there is no tracepoint {system}:{name}",
            why=f"did you mean {' or '.join(near)}?" if near else "",
            next_step="see `perfxmm list tracepoint` for those of this kernel",
        )
    draft = Draft(type=PerfType.TRACEPOINT, period=1, rate_given=False)
    draft.fields["config"] = number
    return _finish(token, draft, "tracepoint", None, modifiers, 0, KERNEL_EXCLUDES)


def _breakpoint(token: str) -> ResolvedEvent:
    match = _BREAKPOINT.fullmatch(token)
    if match is None:
        raise UsageError(
            f"{token!r} is not a breakpoint", next_step="write mem:ADDRESS[/LENGTH][:rwx][:u]"
        )
    access = sum(BREAKPOINT_ACCESS[letter] for letter in set(match["access"] or "rw"))
    if match["length"] is None:
        # An instruction breakpoint is as long as a word, a data breakpoint four bytes, as in perf.
        length = 8 if access == BREAKPOINT_ACCESS["x"] else 4
    else:
        length = parse_number(match["length"], token, "length")
    if length not in BREAKPOINT_LENGTHS:
        raise UsageError(
            f"a breakpoint cannot watch {length} bytes", where=token,
            next_step="give a length of 1, 2, 4 or 8",
        )
    draft = Draft(type=PerfType.BREAKPOINT, period=1, rate_given=False)
    draft.fields["config1"] = parse_number(match["address"], token, "address")
    draft.fields["config2"] = length
    event = _finish(
        token, draft, "breakpoint", None, match["modifiers"] or "", 0, DEFAULT_EXCLUDES
    )
    return replace(event, attr=replace(event.attr, bp_type=access))


def _finish(
    token: str, draft: Draft, pmu: str, cpus: tuple[int, ...] | None, modifiers: str,
    max_precise: int, excludes: AttrFlag,
) -> ResolvedEvent:
    flags, precise = apply_modifiers(modifiers, token, max_precise=max_precise, excludes=excludes)
    if draft.is_frequency:
        flags |= AttrFlag.FREQ
    config = draft.fields
    attr = EventAttr(
        type=int(draft.type), sample_period=draft.period, flags=int(flags), precise_ip=precise,
        config=config.get("config", 0), config1=config.get("config1", 0),
        config2=config.get("config2", 0), config3=config.get("config3", 0),
        config4=config.get("config4", 0),
    )  # fmt: skip
    return ResolvedEvent(draft.name or token, attr, pmu, cpus, draft.rate_given)


def apply_modifiers(
    modifiers: str, token: str, *, max_precise: int = 0, excludes: AttrFlag = DEFAULT_EXCLUDES
) -> tuple[AttrFlag, int]:
    """Flags and precise_ip of the letters after an event.

    u, k, h: only these levels; G, H: guest or host (without either the guest is excluded);
    p: precise_ip, one each; P: max_precise; I: not when idle; D: pinned; e: exclusive.
    excludes: what holds where no level is named. Raises UsageError for letters that are none.
    """
    unknown = sorted(set(modifiers) - MODIFIERS)
    if unknown:
        raise UsageError(
            f"unknown modifier {''.join(unknown)!r} in {token!r}", next_step=_MODIFIER_HINT
        )
    precise = modifiers.count("p")
    if precise > MOST_PRECISE:
        raise UsageError(f"more than three p in {token!r}", next_step=_MODIFIER_HINT)
    flags = excludes
    if any(level in modifiers for level in LEVELS):
        flags = AttrFlag.EXCLUDE_GUEST
        for level, bit in LEVELS.items():
            if level not in modifiers:
                flags |= bit
    if "G" in modifiers or "H" in modifiers:
        flags &= ~AttrFlag.EXCLUDE_GUEST
        if "G" not in modifiers:
            flags |= AttrFlag.EXCLUDE_GUEST
        if "H" not in modifiers:
            flags |= AttrFlag.EXCLUDE_HOST
    for letter, bit in (("I", AttrFlag.EXCLUDE_IDLE), ("D", AttrFlag.PINNED),
                        ("e", AttrFlag.EXCLUSIVE)):  # fmt: skip
        if letter in modifiers:
            flags |= bit
    return flags, max(precise, max_precise if "P" in modifiers else 0)


_LIST_HINT = "see `perfxmm list` for the events of this machine"
_MODIFIER_HINT = (
    "modifiers are u k h (levels), G H (guest, host), p pp ppp P (precise), I (not idle), "
    "D (pinned), e (exclusive)"
)


def _join(encoding: str, terms: str, modifiers: str) -> str:
    """A vendor table's "cpu/event=0xc0/" with the user's own terms and modifiers in it."""
    if not encoding.endswith("/"):
        return f"{encoding}:{modifiers}" if modifiers else encoding
    return f"{encoding[:-1]},{terms}/{modifiers}" if terms else encoding + modifiers


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _unknown(name: str, catalogue: Catalogue) -> UsageError:
    return UsageError(
        f"unknown event {name!r}", why=_did_you_mean(name, dict.fromkeys(catalogue.names())),
        next_step=_LIST_HINT,
    )  # fmt: skip


def _no_core_pmu(token: str) -> NotSupported:
    return NotSupported(
        f"this machine has no PMU for {token!r}",
        why="the kernel sees no core PMU; virtual machines often have none",
        next_step="use -e " + " or -e ".join(eventnames.WITHOUT_PMU) + ", which need none",
    )
