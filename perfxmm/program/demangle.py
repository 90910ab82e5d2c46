"""Names as a person wrote them, in the form that perf prints: without parameters, return types
and clone suffixes.

The C++ runtime's own demangler (through cxxfilt) gives the whole signature. What perf leaves out
is cut off here: perf asks the demangler of libiberty for names without DMGL_PARAMS (Linux 6.1,
tools/perf/util/symbol-elf.c). Rust's legacy names are decoded here, its v0 names in `rustv0`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import lru_cache

from perfxmm.program import rustv0
from perfxmm.program.lines_process import Child, ToolFailed

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
# Longer names stay as they are, whether that is how they were written or what comes out.
_MOST_MANGLED = 1 << 16
_MOST_READABLE = 1 << 18
# Names that may become longer than this are asked for in a child, and how that is kept in bounds.
_MOST_DIRECT = 1 << 24
_REFERENCE = re.compile(r"[ST][0-9A-Z]*_")
_CHILD_TIMEOUT_S = 3.0
_MOST_FAILURES = 3
_failures: dict[int, int] = {}
_CHILD = """
import sys, cxxfilt
for line in sys.stdin.buffer:
    name = line[:-1].decode("utf-8", "surrogateescape")
    try:
        found = cxxfilt.demangle(name)
    except Exception:
        found = name
    sys.stdout.buffer.write(found.encode("utf-8", "surrogateescape") + b"\\n")
    sys.stdout.buffer.flush()
"""


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


def _may_explode(mangled: str) -> bool:
    """Whether back references could make more of the name than is good.

    Each can double what it refers to: a name of 200 letters may stand for gigabytes. So many
    references make at most 3 ** (references / 3) of a part (three to each level is the worst).
    """
    return len(mangled) * 3 ** (len(_REFERENCE.findall(mangled)) / 3) > _MOST_DIRECT


def _careful(mangled: str) -> str:
    """The runtime's answer out of a process of its own, which may take its time only so long.

    Raises ToolFailed where there is none.
    """
    if "\n" in mangled or _given_up(os.getpid()) >= _MOST_FAILURES:
        raise ToolFailed("not asked")
    try:
        answer = _child(os.getpid()).exchange(
            mangled.encode("utf-8", "surrogateescape") + b"\n", lambda got: got.endswith(b"\n")
        )
    except ToolFailed:
        _failures[os.getpid()] = _given_up(os.getpid()) + 1
        _child.cache_clear()
        raise
    return answer[:-1].decode("utf-8", "surrogateescape")


def _given_up(process: int) -> int:
    return _failures.get(process, 0)


@lru_cache(maxsize=1)
def _child(process: int) -> Child:
    """The one child of this process; after a fork each has its own."""
    return Child([sys.executable, "-I", "-c", _CHILD], timeout_s=_CHILD_TIMEOUT_S)


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
    if runtime is None or len(name) > _MOST_MANGLED:
        return name
    if _may_explode(name):
        runtime = _careful
    # Symbol versions are not part of the mangled name, nor is what mold appends for its stubs.
    mangled = name.split("@", 1)[0].removesuffix("$plt")
    try:
        whole = runtime(mangled)
        if whole == mangled and "." in mangled:
            whole = runtime(mangled.split(".", 1)[0])
    except Exception:
        return name
    if whole == mangled or len(whole) > _MOST_READABLE:
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
        digits = re.match(r"[0-9]{1,9}", components)
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
