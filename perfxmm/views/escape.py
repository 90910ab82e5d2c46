"""Strings that others wrote, made safe to show.

A command name, a path or a symbol may hold anything but NUL. Written to a terminal as they are,
they could move the cursor, rewrite lines that were already shown, or turn text round.
"""

from __future__ import annotations

import re

# C0 and C1 controls and DEL; the marks and overrides that turn text direction round (ALM, LRM,
# RLM, LRE..RLO, LRI..PDI); line and paragraph separators; invisible tags and the byte order mark;
# surrogates, which are undecodable bytes of a file name (PEP 383) and cannot be written as UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def escape_control(text: str) -> str:
    r"""`text` with everything that is not plainly visible written out as an escape.

    Controls become `\x1b`, other characters `\u202e`, an undecodable byte of a file name (as
    os.fsdecode keeps it) its own `\xff`. The result is one line and always encodes as UTF-8. A
    backslash stays itself, so this is for showing and not meant to be turned back.
    """
    # Nearly every name is plain: str.isascii and str.isprintable run at memory speed.
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape_one, text)


def escape_markup(text: str) -> str:
    """`text` as rich markup shows it literally, controls escaped.

    Where a renderable takes a `rich.text.Text`, that is better still: it has no markup at all.
    """
    from rich.markup import escape

    return escape(escape_control(text))


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
