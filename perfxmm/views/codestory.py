"""The code around a snapshot and what it proves, as lines of text. Hostile names are escaped."""

from __future__ import annotations

from collections.abc import Iterator

from perfxmm.coherence.witness.story import Checked, CodeStory, Line
from perfxmm.views.escape import escape_control

_HERE, _RAN, _OTHER = "=>", " |", "  "
_INSTRUCTION_WIDTH = 44


def code_lines(story: CodeStory, indent: str = "  ") -> Iterator[str]:
    """Instructions: a bar marks those that surely ran, an arrow the one at the IP. Behind each,
    what it leaves in registers."""
    for line in story.lines:
        mark = _HERE if line.at_ip else _RAN if line.ran else _OTHER
        text = escape_control(line.text)
        head = f"{indent}{mark} +{line.offset:#07x}  {text}"
        if not line.proves:
            yield head
            continue
        column = len(indent) + 12 + _INSTRUCTION_WIDTH
        yield f"{head:<{column}} {line.proves[0]}"
        for more in line.proves[1:]:
            yield f"{'':<{column}} {more}"


def check_lines(story: CodeStory, indent: str = "  ", *, only: str = "") -> Iterator[str]:
    """Each claim and what was found. only: a result to keep to."""
    for check in story.checks:
        if not only or check.result == only:
            yield f"{indent}{check.result:<12} {check.text}{_found(check)}"


def _found(check: Checked) -> str:
    if check.found is None:
        return "  (not delivered)"
    return "" if check.result == "proved" else f"  (the word is {check.found:#018x})"


def story_dict(story: CodeStory) -> dict[str, object]:
    """The story as plain data. 64-bit values are hexadecimal strings."""
    return {
        "silence": story.silence or None,
        "instructions": [_line_dict(line) for line in story.lines],
        "claims": [
            {
                "claim": check.text, "class": check.register_class, "result": check.result,
                "found": None if check.found is None else f"{check.found:#018x}",
            }
            for check in story.checks
        ],
    }  # fmt: skip


def _line_dict(line: Line) -> dict[str, object]:
    return {
        "offset": line.offset, "text": line.text, "ran": line.ran, "at_ip": line.at_ip,
        "proves": list(line.proves),
    }  # fmt: skip
