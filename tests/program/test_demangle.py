"""Names as perf prints them. The C++ ones were compared with perf 6.1 (see test_against_perf)."""

from __future__ import annotations

import pytest

from perfxmm.program import demangle as module
from perfxmm.program.demangle import bare, demangle

cxxfilt = pytest.importorskip("cxxfilt")

NAMES = [
    ("main", "main"),
    ("_start", "_start"),
    ("_Z3fooi", "foo"),
    ("_Z3fooIiEvT_", "foo<int>"),
    ("_ZNK1n1SIdE2goEd", "n::S<double>::go"),
    ("_ZNK1n1SIdEltERKS1_", "n::S<double>::operator<"),
    ("_ZNKSt8functionIFvvEEclEv", "std::function<void ()>::operator()"),
    ("_ZStlsISt11char_traitsIcEERSt13basic_ostreamIcT_ES5_a",
     "std::operator<< <std::char_traits<char> >"),
    ("_ZdlPv", "operator delete"),
    ("_Znam", "operator new[]"),
    ("_ZN1AcvbEv", "A::operator bool"),
    ("_ZN1AC2Ev", "A::A"),
    ("_ZN1AD0Ev", "A::~A"),
    ("_ZN12_GLOBAL__N_13runEv", "(anonymous namespace)::run"),
    ("_ZZ4mainENKUlvE_clEv", "main::{lambda()#1}::operator()"),
    ("_ZTV1A", "vtable for A"),
    ("_ZThn16_N1AD1Ev", "non-virtual thunk to A::~A()"),
    ("_Z3foov.cold", "foo"),
    ("_Z3fooi.isra.0.cold", "foo"),
    ("work.constprop.0", "work.constprop.0"),
    ("_Z3foov@@VERS_1", "foo"),
    ("_Z3foov@plt", "foo@plt"),
    ("memcpy@plt", "memcpy@plt"),
    ("_Znot_mangled", "_Znot_mangled"),
    ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
    ("_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h"
     "930b740aa94f1d3aE", "<Test + 'static as foo::Bar<Test>>::bar"),
    ("_RNvC6_123foo3bar", "123foo::bar"),
    ("_RNvXCs6GmmlP4bgsG_1rINtB2_1PmENtB2_3Run3runB2_", "<r::P<u32> as r::Run>::run"),
    ("_RINvNtCs6GmmlP4bgsG_1r5inner3genKj5_INtNtCslNYArtu3iFV_5alloc3vec3VecTlReEEEB4_",
     "r::inner::gen::<5, alloc::vec::Vec<(i32, &str)>>"),
    ("_RNCNvNtCsjrHSEGnQ3l9_3std9panicking12default_hook0B5_",
     "std::panicking::default_hook::{closure#0}"),
    ("_RINvCs1_1a1fFG_RL0_hEuE", "a::f::<for<'a> fn(&'a u8)>"),
    ("_RINvCs1_1a1fFUKCPhEOtE", 'a::f::<unsafe extern "C" fn(*const u8) -> *mut u16>'),
    ("_RINvCs1_1a1fDNtB2_1Tp1IhEL_E", "a::f::<dyn a::T<I = u8>>"),
    ("_RNvCs1_1au8gdel_5qa", "a::gödel"),
    ("_RNvCs1_1a1f.llvm.1234", "a::f"),
    ("_RNvCs1_1a99too_short", "_RNvCs1_1a99too_short"),
    ("_RB_", "_RB_"),
    ("_Rnot rust", "_Rnot rust"),
]


@pytest.mark.parametrize(("mangled", "readable"), NAMES)
def test_names(mangled: str, readable: str) -> None:
    assert demangle(mangled) == readable


@pytest.mark.parametrize(
    ("whole", "name"),
    [
        ("void (*pick<int>(int))(char)", "pick<int>"),
        ("unsigned long const& f<(a>b)>(int) const", "f<(a>b)>"),
        ("A::operator->() const &", "A::operator->"),
        ("decltype (x+y) add<int, long>(int, long)", "add<int, long>"),
        ("f(int) const::{lambda(auto:1)#1}::operator()<int>(int) const",
         "f(int) const::{lambda(auto:1)#1}::operator()<int>"),
        ("x::value", "x::value"),
        ("", ""),
        (")", ")"),
    ],
)
def test_signatures(whole: str, name: str) -> None:
    assert bare(whole) == name


def test_a_name_that_would_explode_stays_raw() -> None:
    bomb = "_RINvC1a1f" + "T" * 5 + "u" + "BbBbBb" * 400 + "E"
    assert demangle(bomb) == bomb
    deep = "_RINvC1a1f" + "R" * 5000 + "uE"
    assert demangle(deep) == deep


def test_without_the_runtime_names_stay_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_runtime", lambda: None)
    module.demangle.cache_clear()
    try:
        assert demangle("_Z3fooi") == "_Z3fooi"
    finally:
        module.demangle.cache_clear()
