"""perfxmm: what was in the vector registers when that sample hit, and may it be believed?

>>> import perfxmm
>>> recording = perfxmm.open("perf.data")                      # doctest: +SKIP
>>> for batch in recording.snapshots(keep=("coherent",)):      # doctest: +SKIP
...     batch.sets["user"].vectors[:, 0]                       # XMM0/YMM0/ZMM0 of every sample

Names are loaded when they are first used: importing perfxmm itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfxmm.version import __version__

if TYPE_CHECKING:
    from perfxmm.recorder import record as record
    from perfxmm.recording import Recording as Recording
    from perfxmm.recording import open as open

__all__ = ["Recording", "__version__", "open", "record"]

_HOMES = {
    "open": "perfxmm.recording", "Recording": "perfxmm.recording", "record": "perfxmm.recorder",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'perfxmm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
