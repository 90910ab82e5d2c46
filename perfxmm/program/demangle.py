"""Names as a person wrote them, in the form that perf prints: without parameters, return types
and clone suffixes.

The C++ runtime's own demangler (through cxxfilt) gives the whole signature. What perf leaves out
is cut off here: perf asks the demangler of libiberty for names without DMGL_PARAMS (Linux 6.1,
tools/perf/util/symbol-elf.c). Rust's legacy names are decoded here, its v0 names in `rustv0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from perfxmm.program import rustv0

_RUST_HASH = re.compile(r"17h[0-9a-f]{16}E(?=$|[.@])")
_RUST_ESCAPE = re.compile(r"\$(u[0-9a-f]+|SP|BP|RF|LT|GT|LP|RP|C)\$")
_RUST_SIGNS = {
    "SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ",",
}
_CLONE = re.compile(r"(?: \[clone [^\]]*\])+$")
_QUALIFIER = re.compile(r"(?: const| volatile| noexcept| &&?)$")
_QUALIFIED_SCOPE = re.compile(r" (?:const|volatile|&&?)(?: (?:const|volatile|&&?))*::")
# Longest first. `operator()` is one token; new and delete may have brackets behind them.
_OPERATOR = re.compile(
    r"operator(?: new\[\]| delete\[\]| new\b| delete\b| co_await\b|\"\" ?\w+|<=>|<<=|>>=|->\*"
    r"|\(\)|\[\]|<<|>>|<=|>=|->|==|!=|&&|\|\||\+\+|--|[-+*/%^&|]=|[-+*/%^&|~!=<>,])"
    # A template's arguments are set apart: `operator<< <int>`.
    r"(?: (?=<))?"
)
_TOKEN = re.compile(r"[()<>{}\[\] ]|(?<!\w)operator(?!\w)")
_PARENTHESIS = re.compile(r"[()]")
_PAIRS = {")": "(", ">": "<", "}": "{", "]": "["}

_CACHED_NAMES = 65536


@lru_cache(maxsize=1)
def _runtime() -> Callable[[str], str] | None:
    """cxxfilt's function, None where it or the C++ runtime is not installed."""
    try:
        import cxxfilt

        cxxfilt.demangle("_Z1fv")
    # cxxfilt raises its own errors, OSError or AttributeError, by what is missing.
    except Exception:
        return None
    found: Callable[[str], str] = cxxfilt.demangle
    return found


@lru_cache(maxsize=_CACHED_NAMES)
def demangle(name: str) -> str:
    """The readable form of a symbol name; the name itself where it is not a mangled one."""
    if name.endswith("@plt"):
        return demangle(name[:-4]) + "@plt"
    if name.startswith("_R"):
        return rustv0.demangle(name) or name
    if not name.startswith("_Z"):
        return name
    rust = _RUST_HASH.search(name)
    if rust and name.startswith("_ZN"):
        path = _rust_path(name[3 : rust.start()])
        if path is not None:
            return path
    runtime = _runtime()
    if runtime is None:
        return name
    # Symbol versions are not part of the mangled name, nor is what mold appends for its stubs.
    mangled = name.split("@", 1)[0].removesuffix("$plt")
    try:
        whole = runtime(mangled)
        if whole == mangled and "." in mangled:
            whole = runtime(mangled.split(".", 1)[0])
    except Exception:
        return name
    if whole == mangled:
        return name
    return bare(whole, special=mangled.startswith(("_ZT", "_ZG")))


def bare(whole: str, *, special: bool = False) -> str:
    """Cuts parameters, return type, trailing qualifiers and clone marks from a signature.

    special: vtables, thunks and the like, which name a whole signature and keep it.
    """
    text = _CLONE.sub("", whole)
    if special:
        return text
    head = text
    while (shorter := _QUALIFIER.sub("", head)) != head:
        head = shorter
    if not head.endswith(")") or head.endswith("operator()"):
        return head if head.endswith("operator()") else text
    opening = _matching(head)
    if opening <= 0:
        return text
    head = head[:opening]
    if head.endswith(")") and not head.endswith("operator()"):
        # A function that returns a pointer to a function: `void (*name(int))(char)`.
        inner = _matching(head)
        if inner >= 0 and head[inner + 1 : inner + 2] in ("*", "&"):
            return bare(head[inner + 1 : -1].lstrip("*&"))
    return head[_name_start(head) :]


def _matching(text: str) -> int:
    """Index of the parenthesis that the last character closes, -1 if there is none."""
    depth = 0
    for found in reversed(list(_PARENTHESIS.finditer(text))):
        depth += 1 if found[0] == ")" else -1
        if depth == 0:
            return found.start()
    return -1


def _name_start(head: str) -> int:
    """Where the name begins behind a return type: after the last space outside of brackets."""
    if " " not in head:
        return 0
    start = index = 0
    open_: list[str] = []
    while token := _TOKEN.search(head, index):
        index = token.end()
        sign = token[0]
        if sign == " ":
            if not open_:
                scope = _QUALIFIED_SCOPE.match(head, token.start())
                if scope:
                    index = scope.end()
                else:
                    start = index
        elif sign == "operator":
            spelled = _OPERATOR.match(head, token.start())
            if spelled:
                index = spelled.end()
            elif not open_ and head.startswith(" ", index):
                break  # a conversion: what follows is a type, and part of the name
        elif sign in "(<{[":
            open_.append(sign)
        elif open_ and open_[-1] == _PAIRS[sign]:
            open_.pop()
    return start


def _rust_path(components: str) -> str | None:
    """`4core3fmt` to `core::fmt`; None where the lengths do not add up."""
    parts = []
    while components:
        digits = re.match(r"\d+", components)
        if digits is None:
            return None
        length = int(digits[0])
        part = components[digits.end() : digits.end() + length]
        if len(part) != length or length == 0:
            return None
        components = components[digits.end() + length :]
        if part.startswith("_$"):
            part = part[1:]
        part = _RUST_ESCAPE.sub(_rust_sign, part.replace("..", "::"))
        parts.append(part)
    return "::".join(parts) if parts else None


def _rust_sign(match: re.Match[str]) -> str:
    code = match[1]
    if code in _RUST_SIGNS:
        return _RUST_SIGNS[code]
    number = int(code[1:], 16)
    return chr(number) if 0x20 <= number < 0x110000 else match[0]
