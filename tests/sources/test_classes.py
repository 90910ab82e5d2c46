"""Register classes as a user writes them."""

from __future__ import annotations

import pytest

from perfxmm.errors import NotSupported, UsageError
from perfxmm.kernel.registers import CLASS_NAMES
from perfxmm.sources.classes import EVERYDAY, in_order, parse_classes, require, widest

# text | classes; None is "the widest that there is"
PARSED: list[tuple[str, tuple[str, ...] | None]] = [
    ("", None),
    ("auto", None),
    (" AUTO ", None),
    (",", None),
    ("gpr", ("gpr",)),
    ("xmm", ("gpr", "xmm")),
    ("XMM, xmm", ("gpr", "xmm")),
    ("ymm", ("gpr", "xmm", "ymm")),
    ("zmm", ("gpr", "xmm", "ymm", "zmm")),
    ("opmask,ymm", ("gpr", "xmm", "ymm", "opmask")),
    ("opmask", ("gpr", "opmask")),
    ("ssp", ("gpr", "ssp")),
    ("r16", ("gpr", "egpr")),
    ("r29,R31", ("gpr", "egpr")),
    ("egpr,ssp,opmask,zmm", CLASS_NAMES),
    ("ax,r8,ip", ("gpr",)),
    ("flags,xmm", ("gpr", "xmm")),
]


@pytest.mark.parametrize(("text", "classes"), PARSED)
def test_parse(text: str, classes: tuple[str, ...] | None) -> None:
    assert parse_classes(text) == classes


# text | what | next step
REFUSED = [
    ("xmn", "unknown register class 'xmn'", "Did you mean 'xmm'? Classes are gpr, xmm, ymm, zmm"),
    ("opmasks", "unknown register class 'opmasks'", "Did you mean 'opmask'?"),
    ("qq", "unknown register class 'qq'", "Classes are gpr, xmm, ymm, zmm, opmask, egpr, ssp"),
    ("r32", "unknown register class 'r32'", "Classes are"),
    ("auto,xmm", "'auto' cannot be joined", ""),
    ("ymm3", "single vector registers cannot be sampled: 'ymm3'",
     "Sample 'ymm' and choose registers when looking: perfxmm script --regs ymm3"),
    ("xmm,zmm31", "single vector registers cannot be sampled: 'zmm31'", "Sample 'zmm'"),
    ("k1", "single vector registers cannot be sampled: 'k1'", "Sample 'opmask'"),
    ("k8", "unknown register class 'k8'", "Classes are"),
]


@pytest.mark.parametrize(("text", "what", "step"), REFUSED)
def test_parse_refuses(text: str, what: str, step: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_classes(text)
    assert what in caught.value.what
    assert caught.value.next_step.startswith(step)
    assert caught.value.exit_code == 2


# available | what auto takes of it
WIDEST = [
    ((), ("gpr",)),
    (("xmm",), ("gpr", "xmm")),
    (("opmask", "zmm", "xmm", "ymm"), EVERYDAY),
    (CLASS_NAMES, EVERYDAY),
    (("egpr", "ssp"), ("gpr",)),
]


@pytest.mark.parametrize(("available", "taken"), WIDEST)
def test_auto_takes_the_everyday_ones(
    available: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    assert widest(available) == taken


def test_order_is_that_of_every_list() -> None:
    assert in_order(["ssp", "opmask", "gpr", "xmm"]) == ("gpr", "xmm", "opmask", "ssp")


# asked | available | what is said; None: nothing
REQUIRED = [
    (("gpr",), (), None),
    (("gpr", "xmm"), ("xmm", "ymm"), None),
    (("gpr", "xmm", "ymm"), ("xmm",),
     "register class ymm cannot be sampled (source pmu): available here: gpr, xmm"),
    (("gpr", "zmm", "opmask"), (),
     "register classes zmm, opmask cannot be sampled (source pmu): available here: gpr"),
]


@pytest.mark.parametrize(("asked", "available", "said"), REQUIRED)
def test_require(asked: tuple[str, ...], available: tuple[str, ...], said: str | None) -> None:
    if said is None:
        require(asked, available, where="source pmu")
        return
    with pytest.raises(NotSupported) as caught:
        require(asked, available, where="source pmu")
    assert str(caught.value).splitlines()[0] == said
    assert caught.value.exit_code == 4
