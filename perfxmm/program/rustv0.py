"""Rust's v0 symbol names (RFC 2603), as binutils prints them: without hashes and crate ids.

The C++ runtime's demangler does not know them, and Rust's own library has had v0 names for some
releases. Checked against c++filt of binutils 2.40.
"""

from __future__ import annotations

from collections.abc import Callable

_Production = Callable[[], str]

_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8",
    "i": "isize", "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128", "s": "i16",
    "t": "u16", "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!", "p": "_",
}
_SIGNED, _UNSIGNED = "aslxni", "htmyoj"
_SPECIAL = {"C": "closure", "S": "shim"}
# Back references can make a short name explode.
_MOST_STEPS = 4000
_MOST_DEPTH = 100


class _Invalid(Exception):
    pass


def demangle(name: str) -> str | None:
    """The readable path of a name that starts with `_R`; None where it is no valid v0 name."""
    body = name.split(".", 1)[0][2:]
    if not body.isascii() or not body[:1].isupper():
        return None
    parser = _Parser(body)
    try:
        text = parser.path(in_value=True)
        if parser.position < len(body):
            parser.path(in_value=False)  # the crate that the generic was made for
        return text if parser.position == len(body) else None
    except (_Invalid, UnicodeError, RecursionError):
        return None


class _Parser:
    """Recursive descent; each method consumes one production and returns its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._bound = 0
        self._steps = 0
        self._depth = 0

    def path(self, *, in_value: bool) -> str:
        self._enter()
        try:
            return self._path(in_value, self._next())
        finally:
            self._depth -= 1

    def _path(self, in_value: bool, tag: str) -> str:
        if tag == "C":
            self._disambiguator()
            return self._identifier()
        if tag == "N":
            return self._nested(in_value)
        if tag in "MX":
            # Where the impl block stands: not part of what is printed.
            self._disambiguator()
            self.path(in_value=False)
        if tag in "MXY":
            of = self._type()
            return f"<{of}>" if tag == "M" else f"<{of} as {self.path(in_value=False)}>"
        if tag == "I":
            head = self.path(in_value=in_value)
            return f"{head}{'::' if in_value else ''}<{self._list(self._generic)}>"
        if tag == "B":
            back = self._back()
            text = self.path(in_value=in_value)
            self.position = back
            return text
        raise _Invalid

    def _nested(self, in_value: bool) -> str:
        space = self._next()
        head = self.path(in_value=in_value)
        number = self._disambiguator()
        name = self._identifier()
        if space.isupper():
            label = _SPECIAL.get(space, space)
            return f"{head}::{{{label}{':' + name if name else ''}#{number}}}"
        return f"{head}::{name}" if name else head

    def _generic(self) -> str:
        if self._eat("L"):
            return self._lifetime(self._base62())
        if self._eat("K"):
            return self._const()
        return self._type()

    def _type(self) -> str:
        self._enter()
        try:
            return self._type_of(self._next())
        finally:
            self._depth -= 1

    def _type_of(self, tag: str) -> str:
        if tag in _BASIC:
            return _BASIC[tag]
        if tag in "RQ":
            life = ""
            if self._eat("L"):
                index = self._base62()
                life = self._lifetime(index) + " " if index else ""
            return f"&{life}{'mut ' if tag == 'Q' else ''}{self._type()}"
        if tag in "PO":
            return f"*{'const' if tag == 'P' else 'mut'} {self._type()}"
        if tag in "AS":
            of = self._type()
            return f"[{of}; {self._const()}]" if tag == "A" else f"[{of}]"
        if tag == "T":
            parts = self._parts(self._type)
            return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
        if tag == "F":
            return self._binding(self._function)
        if tag == "D":
            text = "dyn " + self._binding(lambda: " + ".join(self._parts(self._dyn_trait)))
            if not self._eat("L"):
                raise _Invalid
            index = self._base62()
            return f"{text} + {self._lifetime(index)}" if index else text
        if tag == "B":
            back = self._back()
            text = self._type()
            self.position = back
            return text
        return self._path(False, tag)

    def _function(self) -> str:
        text = "unsafe " if self._eat("U") else ""
        if self._eat("K"):
            abi = "C" if self._eat("C") else self._identifier().replace("_", "-")
            text += f'extern "{abi}" '
        text += f"fn({self._list(self._type)})"
        if self._eat("u"):
            return text
        return f"{text} -> {self._type()}"

    def _dyn_trait(self) -> str:
        text = self.path(in_value=False)
        bindings = []
        while self._eat("p"):
            name = self._identifier()
            bindings.append(f"{name} = {self._type()}")
        if not bindings:
            return text
        inside = ", ".join(bindings)
        return f"{text[:-1]}, {inside}>" if text.endswith(">") else f"{text}<{inside}>"

    def _const(self) -> str:
        self._enter()
        try:
            tag = self._next()
            if tag == "B":
                back = self._back()
                text = self._const()
                self.position = back
                return text
            if tag == "p":
                return "_"
            sign = "-" if tag in _SIGNED and self._eat("n") else ""
            digits = self._hex()
        finally:
            self._depth -= 1
        value = int(digits or "0", 16)
        if tag == "b" and value < 2:
            return "true" if value else "false"
        if tag == "c" and value < 0x110000:
            return repr(chr(value))
        if tag not in _SIGNED + _UNSIGNED:
            raise _Invalid
        return sign + (str(value) if len(digits) <= 16 else f"0x{digits}")

    def _binding(self, inner: _Production) -> str:
        count = self._base62() + 1 if self._eat("G") else 0
        if count > _MOST_DEPTH:
            raise _Invalid
        self._bound += count
        names = [self._lifetime(self._bound - number) for number in
                 range(self._bound - count, self._bound)]
        text = inner()
        self._bound -= count
        return f"for<{', '.join(names)}> {text}" if count else text

    def _lifetime(self, index: int) -> str:
        if index == 0:
            return "'_"
        depth = self._bound - index
        if depth < 0:
            raise _Invalid
        return f"'{chr(ord('a') + depth)}" if depth < 26 else f"'_{depth}"

    def _list(self, production: _Production) -> str:
        return ", ".join(self._parts(production))

    def _parts(self, production: _Production) -> list[str]:
        parts = []
        while not self._eat("E"):
            parts.append(production())
        return parts

    # Letters and numbers.

    def _enter(self) -> None:
        self._steps += 1
        self._depth += 1
        if self._steps > _MOST_STEPS or self._depth > _MOST_DEPTH:
            raise _Invalid

    def _next(self) -> str:
        if self.position >= len(self.text):
            raise _Invalid
        self.position += 1
        return self.text[self.position - 1]

    def _eat(self, letter: str) -> bool:
        if self.text.startswith(letter, self.position):
            self.position += 1
            return True
        return False

    def _base62(self) -> int:
        """`_` is 0, `0_` is 1, ..."""
        value = 0
        if self._eat("_"):
            return 0
        while (letter := self._next()) != "_":
            digit = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".find(letter)
            if digit < 0:
                raise _Invalid
            value = value * 62 + digit
        return value + 1

    def _disambiguator(self) -> int:
        return self._base62() + 1 if self._eat("s") else 0

    def _back(self) -> int:
        """Goes to an earlier place and returns where to come back to."""
        start = self.position - 1
        target = self._base62()
        if target >= start:
            raise _Invalid
        back, self.position = self.position, target
        return back

    def _hex(self) -> str:
        end = self.text.find("_", self.position)
        digits = self.text[self.position : end]
        if end < 0 or digits.strip("0123456789abcdef"):
            raise _Invalid
        self.position = end + 1
        return digits.lstrip("0")

    def _identifier(self) -> str:
        encoded = self._eat("u")
        start = self.position
        while self.text[self.position : self.position + 1].isdigit():
            self.position += 1
            if self.text[start] == "0":
                break
        if start == self.position or self.position - start > 9:
            raise _Invalid
        length = int(self.text[start : self.position])
        self._eat("_")
        name = self.text[self.position : self.position + length]
        if len(name) != length:
            raise _Invalid
        self.position += length
        if encoded:
            ascii_part, _, deltas = name.rpartition("_")
            joined = f"{ascii_part}-{deltas}" if ascii_part else deltas
            return joined.encode().decode("punycode")
        return name
