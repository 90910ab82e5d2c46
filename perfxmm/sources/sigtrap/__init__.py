"""Snapshots by traps: perf events that stop the thread, registers read by ptrace.

`source` is the recorder's side; `tracer` the process that holds the target. In between: `channel`.
Inside the tracer: `session` (one recording), `targets` (launch, attach), `state` and `loop` (the
wait loop), `assembly` (records), `detach`, `interrupt` (the engine without perf events).
"""

from perfxmm.sources.sigtrap.source import SigtrapSource

__all__ = ["SigtrapSource"]
