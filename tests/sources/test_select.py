"""Which source serves a request: made-up offers, made-up kernels, and this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support.fake_kernel import ICE_LAKE_7_3, ICE_LAKE_MERGED, NO_PMU, TIGERLAKE, FakeKernel, Model

from perfxmm.errors import NotSupported, PerfxmmError, PermissionDenied, UsageError
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import PerfType
from perfxmm.sources.base import RecordRequest, RecordResult, RequestedEvent
from perfxmm.sources.classes import EVERYDAY
from perfxmm.sources.select import Choice, Offer, choose, machine_offers

NO_MODULE = "the kernel module xsaves_nmi is not loaded"


@dataclass
class MadeUp:
    """A source that refuses with `refusal`, and notes the classes it was asked about."""

    name: str
    refusal: str | None = None
    asked: tuple[str, ...] = ()

    def why_not(self, request: RecordRequest) -> str | None:
        self.asked = request.classes
        return self.refusal

    def record(
        self, request: RecordRequest, *, progress: Callable[[int, float], None] | None = None
    ) -> RecordResult:
        raise AssertionError("choosing records nothing")


def offers(
    *, pmu: tuple[str, ...] = EVERYDAY, sigtrap: tuple[str, ...] = EVERYDAY, no_pmu: str = "",
    no_sigtrap: str = "", pmu_refuses: str | None = None, sigtrap_refuses: str | None = None,
    nmi: tuple[str, ...] = (), nmi_denied: str = "", nmi_refuses: str | None = None,
) -> dict[str, Offer]:  # fmt: skip
    refusal: PerfxmmError | None = None
    if nmi_denied:
        refusal = PermissionDenied("denied", call="perf_event_open", errno=1, why=nmi_denied)
    elif not nmi:
        refusal = NotSupported("source 'nmi' cannot be used here", why=NO_MODULE, next_step="load")
    return {
        "pmu": Offer(pmu, ("intr",), lambda: MadeUp("pmu", pmu_refuses), "by the kernel", no_pmu),
        "sigtrap": Offer(
            sigtrap, ("user",), lambda: MadeUp("sigtrap", sigtrap_refuses), "by a stop", no_sigtrap
        ),
        "nmi": Offer(
            nmi, ("intr",), lambda: MadeUp("nmi", nmi_refuses), "in an NMI", refusal=refusal,
            not_installed=not nmi and not nmi_denied,
        ),
    }


def event(name: str = "cycles", *, precise_ip: int = 0, kind: int = 0) -> RequestedEvent:
    return RequestedEvent(name, EventAttr(type=kind, precise_ip=precise_ip))


def request(**values: Any) -> RecordRequest:
    base: dict[str, Any] = {
        "events": (event(),), "classes": (), "output": "x", "command": ("app",), "sets": ()
    }
    return RecordRequest(**{**base, **values})


ALL = "gpr, xmm, ymm, zmm, opmask"
# wanted | classes | offers | the line, the classes taken, the sets
CHOSEN: list[tuple[str, tuple[str, ...] | None, dict[str, Any], str, tuple[str, ...], str]] = [
    ("auto", None, {}, f"source pmu (the kernel samples these registers itself): {ALL}; by the "
     "kernel", EVERYDAY, "intr"),
    ("auto", None, {"no_pmu": "this machine has no core PMU"},
     f"source sigtrap (pmu: this machine has no core PMU): {ALL}; by a stop", EVERYDAY, "user"),
    ("auto", None, {"pmu_refuses": "not with this event"},
     f"source sigtrap (pmu: not with this event): {ALL}; by a stop", EVERYDAY, "user"),
    # Source nmi comes in between where its module is loaded, and is not spoken of where it is not.
    ("auto", None, {"no_pmu": "no PMU", "nmi": EVERYDAY},
     f"source nmi (pmu: no PMU): {ALL}; in an NMI", EVERYDAY, "intr"),
    ("auto", None, {"nmi": EVERYDAY}, f"source pmu (the kernel samples these registers itself): "
     f"{ALL}; by the kernel", EVERYDAY, "intr"),
    ("auto", None, {"no_pmu": "no PMU", "nmi_denied": "raw data needs CAP_PERFMON"},
     f"source sigtrap (pmu: no PMU; nmi: raw data needs CAP_PERFMON): {ALL}; by a stop", EVERYDAY,
     "user"),
    ("auto", None, {"no_pmu": "no PMU", "nmi": EVERYDAY, "nmi_refuses": "not this event"},
     f"source sigtrap (pmu: no PMU; nmi: not this event): {ALL}; by a stop", EVERYDAY, "user"),
    ("nmi", ("gpr", "xmm"), {"nmi": EVERYDAY}, "source nmi (asked for): gpr, xmm; in an NMI",
     ("gpr", "xmm"), "intr"),
    # A class that only the other source has decides; a narrower one does not.
    ("auto", ("gpr", "xmm", "ymm"), {"pmu": ("gpr", "xmm")},
     "source sigtrap (pmu: available here: gpr, xmm): gpr, xmm, ymm; by a stop",
     ("gpr", "xmm", "ymm"), "user"),
    ("auto", None, {"pmu": ("gpr", "xmm")},
     "source pmu (the kernel samples these registers itself): gpr, xmm; by the kernel",
     ("gpr", "xmm"), "intr"),
    ("auto", ("gpr", "ssp"), {"pmu": (*EVERYDAY, "ssp")},
     "source pmu (the kernel samples these registers itself): gpr, ssp; by the kernel",
     ("gpr", "ssp"), "intr"),
    ("sigtrap", None, {}, f"source sigtrap (asked for): {ALL}; by a stop", EVERYDAY, "user"),
    ("sigtrap", ("gpr", "xmm"), {}, "source sigtrap (asked for): gpr, xmm; by a stop",
     ("gpr", "xmm"), "user"),
    ("pmu", ("gpr", "opmask"), {}, "source pmu (asked for): gpr, opmask; by the kernel",
     ("gpr", "opmask"), "intr"),
    # auto never means the rare classes, though they can be asked for.
    ("sigtrap", None, {"sigtrap": (*EVERYDAY, "egpr")},
     f"source sigtrap (asked for): {ALL}; by a stop", EVERYDAY, "user"),
    ("sigtrap", ("gpr", "egpr"), {"sigtrap": (*EVERYDAY, "egpr")},
     "source sigtrap (asked for): gpr, egpr; by a stop", ("gpr", "egpr"), "user"),
]


@pytest.mark.parametrize(("wanted", "asked", "there", "line", "taken", "where"), CHOSEN)
def test_chosen(
    wanted: str, asked: tuple[str, ...] | None, there: dict[str, Any], line: str,
    taken: tuple[str, ...], where: str,
) -> None:  # fmt: skip
    choice = choose(request(), wanted, asked, offers(**there))
    assert choice.line == line
    assert choice.classes == taken
    assert choice.sets == (where,)
    assert line.startswith(f"source {choice.source.name} ")
    assert isinstance(choice.source, MadeUp)
    assert choice.source.asked == taken


def test_sets_asked_for_by_name_are_kept() -> None:
    asked = request(sets=("intr", "user"))
    assert choose(asked, "auto", None, offers()).sets == ("intr", "user")


DOCTOR = "'perfxmm doctor' shows what works on this machine."
CLASSES_STEP = "'perfxmm doctor' shows what was tried; '--regs auto' takes the widest."
# wanted | classes | offers | what, why, next step
REFUSED: list[tuple[str, tuple[str, ...] | None, dict[str, Any], str, str, str]] = [
    ("auto", None, {"no_pmu": "no PMU", "no_sigtrap": "no ptrace"},
     "no source can record this here", "pmu: no PMU; sigtrap: no ptrace", DOCTOR),
    ("auto", None, {"pmu_refuses": "not this event", "sigtrap_refuses": "it stops threads"},
     "no source can record this here", "pmu: not this event; sigtrap: it stops threads", DOCTOR),
    ("auto", ("gpr", "ssp"), {"no_pmu": "no PMU", "sigtrap": ("gpr", "xmm")},
     "no source can record this here", "pmu: no PMU; sigtrap: available here: gpr, xmm",
     CLASSES_STEP),
    ("pmu", None, {"no_pmu": "no PMU"}, "source 'pmu' cannot be used here", "no PMU", DOCTOR),
    ("sigtrap", None, {"sigtrap_refuses": "it stops threads"},
     "source 'sigtrap' cannot serve this request", "it stops threads", DOCTOR),
    ("pmu", ("gpr", "zmm"), {"pmu": ("gpr", "xmm")}, "register class zmm cannot be sampled",
     "available here: gpr, xmm", CLASSES_STEP),
    ("nmi", None, {}, "source 'nmi' cannot be used here", NO_MODULE, "load"),
]


@pytest.mark.parametrize(("wanted", "asked", "there", "what", "why", "step"), REFUSED)
def test_refused(
    wanted: str, asked: tuple[str, ...] | None, there: dict[str, Any], what: str, why: str,
    step: str,
) -> None:  # fmt: skip
    with pytest.raises(NotSupported) as caught:
        choose(request(), wanted, asked, offers(**there))
    assert (caught.value.what, caught.value.why) == (what, why)
    assert caught.value.next_step == step
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("wanted", "engine", "what", "step"),
    [("ptrace", "auto", "unknown source 'ptrace'", "Sources are auto, pmu, sigtrap, nmi."),
     ("auto", "fast", "unknown engine 'fast'", "Engines are auto, perf, interrupt.")],
)  # fmt: skip
def test_unknown_names(wanted: str, engine: str, what: str, step: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(request(engine=engine), wanted, None, offers())
    assert (caught.value.what, caught.value.next_step) == (what, step)
    assert caught.value.exit_code == 2


# --- what the machine offers, the kernel being a fake

PMU_MEANING = "registers as the kernel put them into each sample"
HINT = "but XMM can be sampled with a precise event: -e"
NO_SIMD = "this kernel has no SIMD register sampling"


def pmu_offer(monkeypatch: pytest.MonkeyPatch, model: Model, asked: RecordRequest) -> Offer:
    monkeypatch.setattr("perfxmm.kernel.syscalls.linux_kernel", lambda: FakeKernel(model))
    return machine_offers(asked)["pmu"]


SOFTWARE = int(PerfType.SOFTWARE)
RAW = int(PerfType.RAW)
# model | sets | events | why not
NOT_OFFERED: list[tuple[Model, tuple[str, ...], tuple[RequestedEvent, ...], str]] = [
    (NO_PMU, (), (event(),), "this machine has no core PMU"),
    (Model(refuse=13), (), (event(),), "the kernel refuses a plain cycles event (EACCES)"),
    (ICE_LAKE_7_3, (), (event(),), f"{NO_SIMD}, {HINT} cycles:pp"),
    (ICE_LAKE_7_3, (), (event("instructions:u"),), f"{NO_SIMD}, {HINT} instructions:upp"),
    (ICE_LAKE_7_3, (), (event("cpu/event=0x3c/", kind=RAW),),
     f"{NO_SIMD}, {HINT} cpu/event=0x3c/pp"),
    (ICE_LAKE_7_3, (), (event("cpu/event=0x3c/u", kind=RAW),),
     f"{NO_SIMD}, {HINT} cpu/event=0x3c/upp"),
    (ICE_LAKE_7_3, (), (event("task-clock", kind=SOFTWARE),), f"{NO_SIMD}, {HINT} cycles:pp"),
    # Nothing there to propose: no XMM in the user set, or the event is precise already.
    (ICE_LAKE_7_3, ("user",), (event(),), NO_SIMD),
    (Model(dialect="L", struct_size=144, components=2), (), (event(precise_ip=2),), NO_SIMD),
    (Model(dialect="L", struct_size=144, components=2, precise_max=1, pebs=frozenset({"xmm"})),
     (), (event(),), f"{NO_SIMD}, {HINT} cycles:p"),
    (TIGERLAKE, (), (event(precise_ip=1),),
     "this kernel and CPU deliver no vector registers at precise_ip 1"),
]


@pytest.mark.parametrize(("model", "sets", "events", "why"), NOT_OFFERED)
def test_why_the_pmu_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, model: Model, sets: tuple[str, ...],
    events: tuple[RequestedEvent, ...], why: str,
) -> None:  # fmt: skip
    offer = pmu_offer(monkeypatch, model, request(sets=sets, events=events))
    assert (offer.why_not, offer.classes) == (why, ())


@pytest.mark.parametrize(
    ("model", "sets", "precise", "classes"),
    [(TIGERLAKE, (), 0, {*EVERYDAY, "ssp"}),
     (TIGERLAKE, ("intr", "user"), 0, {*EVERYDAY, "ssp"}),
     (ICE_LAKE_MERGED, (), 0, set(EVERYDAY)),
     (ICE_LAKE_MERGED, (), 2, {"gpr", "xmm"}),
     (ICE_LAKE_7_3, (), 2, {"gpr", "xmm"})],
)  # fmt: skip
def test_what_the_pmu_offers(
    monkeypatch: pytest.MonkeyPatch, model: Model, sets: tuple[str, ...], precise: int,
    classes: set[str],
) -> None:  # fmt: skip
    asked = request(sets=sets, events=(event("cycles", precise_ip=precise),))
    offer = pmu_offer(monkeypatch, model, asked)
    assert (offer.why_not, set(offer.classes), offer.meaning) == ("", classes, PMU_MEANING)
    assert offer.sets == (sets or ("intr",))


def on_fake(
    monkeypatch: pytest.MonkeyPatch, model: Model, wanted: str, classes: tuple[str, ...] | None,
    **values: Any,
) -> Choice:  # fmt: skip
    monkeypatch.setattr("perfxmm.kernel.syscalls.linux_kernel", lambda: FakeKernel(model))
    return choose(request(**values), wanted, classes)


def test_the_hint_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = on_fake(monkeypatch, ICE_LAKE_7_3, "auto", None)
    assert choice.source.name == "sigtrap"
    assert choice.line.startswith(f"source sigtrap (pmu: {NO_SIMD}, {HINT} cycles:pp): gpr, xmm")
    with pytest.raises(NotSupported) as caught:
        on_fake(monkeypatch, ICE_LAKE_7_3, "pmu", ("gpr", "xmm"))
    assert caught.value.why == f"{NO_SIMD}, {HINT} cycles:pp"


# --- what sigtrap offers, XCR0 being made up. R16..R31: no CPU with APX was at hand.

AVX2, AVX512, APX = 0x7, 0xE7, 0x800E7


def with_xcr0(monkeypatch: pytest.MonkeyPatch, mask: int | None, **values: Any) -> Offer:
    monkeypatch.setattr("perfxmm.xstate.cpuid.xgetbv", lambda: mask)
    return machine_offers(request(**values))["sigtrap"]


@pytest.mark.parametrize(
    ("mask", "classes"),
    [(0x3, ("gpr", "xmm")), (AVX2, ("gpr", "xmm", "ymm")), (AVX512, EVERYDAY),
     (APX, (*EVERYDAY, "egpr")), (0x80003, ("gpr", "xmm", "egpr"))],
)  # fmt: skip
def test_what_sigtrap_offers(
    monkeypatch: pytest.MonkeyPatch, mask: int, classes: tuple[str, ...]
) -> None:
    assert with_xcr0(monkeypatch, mask).classes == classes


def test_apx_registers_are_taken_when_asked_for_and_not_by_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perfxmm.xstate.cpuid.xgetbv", lambda: APX)
    assert choose(request(), "sigtrap", None).classes == EVERYDAY
    assert choose(request(), "sigtrap", ("gpr", "egpr")).classes == ("gpr", "egpr")
    monkeypatch.setattr("perfxmm.xstate.cpuid.xgetbv", lambda: AVX512)
    with pytest.raises(NotSupported, match="register class egpr cannot be sampled"):
        choose(request(), "sigtrap", ("gpr", "egpr"))


STOPPED = "each snapshot is the thread stopped at its own SIGTRAP, registers and their IP together"
TIMED = "each snapshot is the thread interrupted by ptrace on a timer; no event IP"


@pytest.mark.parametrize(
    ("engine", "meaning"), [("auto", STOPPED), ("perf", STOPPED), ("interrupt", TIMED)]
)
def test_the_engine_decides_what_a_snapshot_is(engine: str, meaning: str) -> None:
    choice = choose(request(engine=engine), "sigtrap", ("gpr", "xmm"))
    assert choice.line == f"source sigtrap (asked for): gpr, xmm; {meaning}"


def doctor_says(mask: int | None) -> tuple[str, ...]:
    from perfxmm.analysis.capability import diagnose
    from perfxmm.cli.machine import gather

    found = diagnose(gather(kernel=FakeKernel(NO_PMU), trace=lambda: None, xcr0=lambda: mask))
    [sigtrap] = [one for one in found.sources if one.name == "sigtrap"]
    return tuple(sigtrap.delivers)


@pytest.mark.parametrize("mask", [0x3, AVX2, AVX512, APX, None])
def test_doctor_says_the_same(monkeypatch: pytest.MonkeyPatch, mask: int | None) -> None:
    assert with_xcr0(monkeypatch, mask).classes == doctor_says(mask)
