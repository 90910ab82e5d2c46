"""The data model as the rooms after this one see it: a batch that has verdicts."""

from perfxmm.snapshots.batch import (
    STATISTICS,
    VERDICT_CLASSES,
    Bool,
    RegisterSet,
    SnapshotBatch,
)

__all__ = ["STATISTICS", "VERDICT_CLASSES", "Bool", "RegisterSet", "SnapshotBatch"]
