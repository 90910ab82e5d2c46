"""Which source serves a request: `--source auto|pmu|sigtrap|nmi`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfxmm.errors import NotSupported, PerfxmmError, PermissionDenied, UsageError, errno_name
from perfxmm.kernel.registers import CLASS_NAMES
from perfxmm.sources import classes as register_classes
from perfxmm.sources.base import RecordRequest, Source

if TYPE_CHECKING:
    from perfxmm.kernel.probe import Capabilities

SOURCE_NAMES = ("auto", "pmu", "sigtrap", "nmi")
# Nothing is loaded for it: source nmi is taken where its module already is.
AUTO_ORDER = ("pmu", "nmi", "sigtrap")
ENGINES = ("auto", "perf", "interrupt")
# What a snapshot of source sigtrap is. "auto" changes to "interrupt" only where the kernel refuses
# events, which the tracer then says.
ENGINE_MEANING = {
    "auto": "each snapshot is the thread stopped at its own SIGTRAP, registers and their IP "
    "together",
    "interrupt": "each snapshot is the thread interrupted by ptrace on a timer; no event IP",
}
# The precise_ip levels to propose, most usual first.
PRECISE_TRIED = (2, 1, 3)


@dataclass(frozen=True, slots=True)
class Choice:
    """The source taken, what it will sample, and one line that says why."""

    source: Source
    classes: tuple[str, ...]
    sets: tuple[str, ...]
    line: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What one source can do on this machine.

    classes: classes it delivers; empty where it cannot work at all, and `why_not` says why,
        or `refusal` with the next step.
    sets: register sets it fills in when none is asked for by name.
    not_installed: it takes something that most machines do not have: where it refuses, `auto` does
        not speak of it.
    """

    classes: tuple[str, ...]
    sets: tuple[str, ...]
    make: Callable[[], Source]
    meaning: str
    why_not: str = ""
    refusal: PerfxmmError | None = None
    not_installed: bool = False


def choose(
    request: RecordRequest,
    wanted: str,
    classes: tuple[str, ...] | None,
    offers: dict[str, Offer] | None = None,
) -> Choice:
    """The best source for `request`; `classes` None means the widest that it delivers.

    wanted: "auto" or a source's name. offers: replaces this machine's, for tests.
    Raises UsageError for an unknown source, NotSupported where nothing serves the request: each
    source's own reason is in the message.
    """
    if wanted not in SOURCE_NAMES:
        raise UsageError(
            f"unknown source '{wanted}'", next_step=f"Sources are {', '.join(SOURCE_NAMES)}."
        )
    if request.engine not in ENGINES:
        raise UsageError(
            f"unknown engine '{request.engine}'", next_step=f"Engines are {', '.join(ENGINES)}."
        )
    here = machine_offers(request) if offers is None else offers
    if wanted != "auto":
        return _take(wanted, here[wanted], request, classes, why="asked for")
    reasons: list[str] = []
    for name in AUTO_ORDER:
        offer = here[name]
        if offer.not_installed:
            continue
        try:
            return _take(
                name, offer, request, classes,
                why="; ".join(reasons) or "the kernel samples these registers itself",
            )
        except (NotSupported, PermissionDenied) as refusal:
            reasons.append(f"{name}: {refusal.why or refusal.what}")
            last = refusal
    raise NotSupported(
        "no source can record this here", why="; ".join(reasons), next_step=last.next_step
    )


def _take(
    name: str, offer: Offer, request: RecordRequest, classes: tuple[str, ...] | None, why: str
) -> Choice:
    if offer.refusal is not None:
        raise offer.refusal
    if offer.why_not:
        raise NotSupported(
            f"source '{name}' cannot be used here", why=offer.why_not,
            next_step="'perfxmm doctor' shows what works on this machine.",
        )
    if classes is None:
        taken = register_classes.widest(offer.classes)
    else:
        register_classes.require(classes, offer.classes, where=f"source {name}")
        taken = classes
    source = offer.make()
    refusal = source.why_not(replace(request, classes=taken))
    if refusal is not None:
        raise NotSupported(
            f"source '{name}' cannot serve this request", why=refusal,
            next_step="'perfxmm doctor' shows what works on this machine.",
        )
    shown = ", ".join(c for c in CLASS_NAMES if c in taken)
    return Choice(
        source, taken, request.sets or offer.sets,
        f"source {name} ({why}): {shown}; {offer.meaning}",
    )


def machine_offers(request: RecordRequest) -> dict[str, Offer]:
    """What each source can do on the running machine, for `request`'s kind of target."""
    return {
        "pmu": _pmu_offer(request),
        "sigtrap": _sigtrap_offer(request),
        "nmi": _nmi_offer(),
    }


def _nmi_offer() -> Offer:
    from perfxmm.kernel.permissions import survey
    from perfxmm.sources import nmi
    from perfxmm.sources.kmodule.status import read_status

    status = read_status()
    refusal = nmi.refusal(survey())
    if status is None or refusal is not None:
        return Offer(
            (), (), nmi.NmiSource, "", refusal=refusal, not_installed=status is None
        )
    return Offer(
        nmi.delivered(status), ("intr",), nmi.NmiSource,
        f"each snapshot is one {(status.instruction or 'XSAVE').upper()} in an NMI; of general "
        "registers IP and SP",
    )


def _pmu_offer(request: RecordRequest) -> Offer:
    from perfxmm.kernel.probe import probe
    from perfxmm.kernel.syscalls import linux_kernel
    from perfxmm.sources.pmu import PmuSource

    kernel = linux_kernel()
    capabilities = probe(kernel)
    sets = request.sets or ("intr",)
    precise_ip = max((event.attr.precise_ip for event in request.events), default=0)
    # General registers alone are no reason to prefer this source.
    found = frozenset.intersection(
        *(capabilities.classes_available(name, precise_ip) for name in sets)
    ) - {"gpr"}

    def make() -> Source:
        return PmuSource(kernel)

    if not found:
        why = _why_no_classes(capabilities, request, sets, precise_ip)
        return Offer((), sets, make, "", why_not=why)
    return Offer(
        ("gpr", *found), sets, make, "registers as the kernel put them into each sample"
    )


def _why_no_classes(
    capabilities: Capabilities, request: RecordRequest, sets: tuple[str, ...], precise_ip: int
) -> str:
    if capabilities.open_errno == errno.ENOENT:
        return "this machine has no core PMU"
    if capabilities.open_errno:
        name = errno_name(capabilities.open_errno)
        return f"the kernel refuses a plain cycles event ({name})"
    if not capabilities.has_simd:
        why = "this kernel has no SIMD register sampling"
    else:
        why = f"this kernel and CPU deliver no vector registers at precise_ip {precise_ip}"
    for level in PRECISE_TRIED if not precise_ip else ():
        if all("xmm" in capabilities.classes_available(name, level) for name in sets):
            hint = _precise_event(request, level)
            return f"{why}, but XMM can be sampled with a precise event: -e {hint}"
    return why


def _precise_event(request: RecordRequest, level: int) -> str:
    """The first event of the request with `level` p modifiers; cycles where it cannot have any."""
    from perfxmm.sources.pmu_attr import NO_CORE

    first = request.events[0]
    if first.attr.type in NO_CORE:
        return "cycles:" + "p" * level
    # Modifiers follow a colon, or the slash that ends a PMU's terms.
    separator = "" if ":" in first.name or first.name.count("/") == 2 else ":"
    return first.name + separator + "p" * level


def _sigtrap_offer(request: RecordRequest) -> Offer:
    from perfxmm.kernel.cpuinfo import read_cpuinfo
    from perfxmm.sources.sigtrap import SigtrapSource
    from perfxmm.xstate.components import CLASS_COMPONENTS, classes_in
    from perfxmm.xstate.cpuid import xgetbv

    # As `doctor` judges it: what the kernel switched on, and only where that cannot be read what
    # the CPU promises. R16..R31 (egpr) are read from the APX component; no CPU with APX was at
    # hand, so that this is tested on written bytes only.
    mask = xgetbv()
    classes = read_cpuinfo().classes if mask is None else classes_in(mask)
    return Offer(
        ("gpr", *(name for name in classes if name in CLASS_COMPONENTS)), ("user",), SigtrapSource,
        ENGINE_MEANING.get(request.engine, ENGINE_MEANING["auto"]),
    )
