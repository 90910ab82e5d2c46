"""Symbol names made to cost time and memory stay as they are; names that only look so do not."""

from __future__ import annotations

import pytest

from perfxmm.program import demangle as module
from perfxmm.program.demangle import demangle

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def doubling(levels: int) -> str:
    """B<B<..>, B<..>>: each level refers to the one before twice."""
    references = (f"S{DIGITS[level]}_" for level in range(levels))
    return "_Z1f1BIiiE" + "".join(f"S_I{one}{one}E" for one in references)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    if module._runtime() is None:
        pytest.skip("the C++ runtime's demangler is not here")
    monkeypatch.setattr(module, "_failures", {})
    module._child.cache_clear()
    demangle.cache_clear()


def test_names_that_explode_stay_mangled_and_are_given_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CHILD_TIMEOUT_S", 0.3)
    names = [doubling(35) + "i" * extra for extra in range(6)]
    assert [demangle(name) for name in names] == names
    assert list(module._failures.values()) == [module._MOST_FAILURES]


def test_many_references_that_stay_small_are_read() -> None:
    name = "_Z1f1AIiE" + "S0_" * 60
    assert module._may_explode(name)
    assert demangle(name) == "f"
    assert module._failures == {}
    assert not module._may_explode(doubling(10))
    assert demangle(doubling(10)) == "f"


@pytest.mark.parametrize(
    "name",
    [
        "_ZN" + "9" * 5000 + "17h0123456789abcdefE", "_ZN" + "9" * 9 + "17h0123456789abcdefE",
        "_R" + "N" * 5000, "_R" + "INvC1a1b" * 2000, "_RNvC" + "9" * 4999, "_Z" + "N" * 70_000,
        "_RINvC1a1b" + "TB2_B2_B2_" * 900 + "E", "_Z1f" + "P" * 65_000 + "i",
    ],
    ids=range(8),
)  # fmt: skip
def test_absurd_names_stay_as_they_are(name: str) -> None:
    assert len(demangle(name)) <= max(len(name), module._MOST_READABLE)
