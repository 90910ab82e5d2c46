"""Tab completion of option values. Imports what it needs when the shell asks, not before."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def choice(*values: str) -> Callable[[str], list[str]]:
    """Completes one of `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def comma_list(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completes the last word of a comma list; words that stand there already are not offered."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = set(before.split(","))
        return [
            f"{before}{comma}{value}"
            for value in values()
            if value.startswith(last) and value not in taken
        ]

    return complete


def register_classes() -> list[str]:
    from perfxmm.kernel.registers import CLASS_NAMES

    return ["auto", *CLASS_NAMES]


def event_names() -> list[str]:
    from perfxmm.kernel.events import Catalogue

    return Catalogue().names()
