"""Attr bytes written field by field, without the codec under test."""

from __future__ import annotations

import struct


def r2_attr(
    *, pred_intr: int = 0, pred_user: int = 0, vec_qwords: int = 0, vec_intr: int = 0,
    vec_user: int = 0, enabled: int = 1, sample_type: int = 0, regs_intr: int = 0,
    regs_user: int = 0, size: int = 176,
) -> bytes:
    """An attr as the postings V2 to V4 laid it out (SIMD fields from 136 on)."""
    out = bytearray(192)
    struct.pack_into("<II", out, 0, 0, size)
    struct.pack_into("<Q", out, 24, sample_type)
    struct.pack_into("<Q", out, 80, regs_user)
    struct.pack_into("<Q", out, 96, regs_intr)
    struct.pack_into("<HHII", out, 136, enabled, 0, pred_intr, pred_user)
    struct.pack_into("<HHQQ", out, 148, vec_qwords, 0, vec_intr, vec_user)
    return bytes(out[:size])


def plain_attr(size: int, tail: dict[int, int] | None = None) -> bytes:
    """A zero attr of `size` bytes with u16 values put at the offsets of `tail`."""
    out = bytearray(max(size, 192))
    struct.pack_into("<II", out, 0, 0, size)
    for offset, value in (tail or {}).items():
        struct.pack_into("<H", out, offset, value)
    return bytes(out[:size])
