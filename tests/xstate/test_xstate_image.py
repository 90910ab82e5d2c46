"""Images to columns: both formats, both vendors, initial states, damage; and the gather plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import xsave_writer as writer
from support.xsave_writer import Registers

from perfxmm.errors import NotSupported
from perfxmm.xstate.gather import plan_gather
from perfxmm.xstate.image import Problem, decode_images
from perfxmm.xstate.layout import FLAG_ALIGN64, Layout, Place

ALL = ("xmm", "ymm", "zmm", "opmask")
XCR0 = 0x2E7
WORD = st.integers(0, 2**64 - 1)


def layout_of(offsets: dict[int, int]) -> Layout:
    return Layout({n: Place(at, writer.SIZES[n]) for n, at in offsets.items()}, XCR0)


def rows(*images: bytes) -> np.ndarray:
    return np.stack([np.frombuffer(i, np.uint8) for i in images])


@st.composite
def registers(draw: st.DrawFn) -> Registers:
    words = draw(st.lists(WORD, min_size=24, max_size=24))
    return Registers(
        vectors=[[words[(r * 8 + q) % 23] ^ (r << 8 | q) for q in range(8)] for r in range(32)],
        opmask=[words[i] for i in range(8)],
    )


def expected(regs: Registers, bv: int) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.array(regs.vectors, np.uint64)
    for component, rows_, columns in ((1, slice(16), slice(0, 2)), (2, slice(16), slice(2, 4)),
                                      (6, slice(16), slice(4, 8)), (7, slice(16, 32), slice(8))):
        if not bv >> component & 1:
            vectors[rows_, columns] = 0
    opmask = np.array(regs.opmask if bv >> 5 & 1 else [0] * 8, np.uint64)
    return vectors, opmask


@settings(max_examples=60, deadline=None)
@given(regs=registers(), bv=st.integers(0, 0x2FF), vendor=st.sampled_from(["intel", "amd"]),
       filler=st.sampled_from([0, 0xA5]))  # fmt: skip
def test_standard_images(regs: Registers, bv: int, vendor: str, filler: int) -> None:
    offsets = writer.INTEL if vendor == "intel" else writer.AMD
    bv &= XCR0
    image = writer.standard(regs, offsets=offsets, xcr0=XCR0, xstate_bv=bv, filler=filler)
    got = decode_images(rows(image), layout_of(offsets), ALL)
    vectors, opmask = expected(regs, bv)
    assert got.problems.tolist() == [0]
    assert (got.vectors[0] == vectors).all()
    assert (got.opmask[0] == opmask).all()
    assert got.init.tolist() == [XCR0 & ~bv]
    assert got.xstate_bv.tolist() == [bv]


@settings(max_examples=60, deadline=None)
@given(regs=registers(), bv=st.integers(0, 0xAFF), extra=st.sampled_from([0, 1 << 9, 0xA00]),
       aligned=st.frozensets(st.sampled_from([2, 5, 6, 7, 9, 11])))  # fmt: skip
def test_compacted_images(
    regs: Registers, bv: int, extra: int, aligned: frozenset[int]
) -> None:
    saved = 0xE7 | extra
    bv &= saved
    layout = Layout({n: Place(0, writer.SIZES[n], FLAG_ALIGN64 if n in aligned else 0)
                     for n in (2, 5, 6, 7, 9, 11)})  # fmt: skip
    image = writer.compacted(regs, saved=saved, xstate_bv=bv, aligned=aligned, filler=0xEE)
    got = decode_images(rows(image), layout, ALL)
    vectors, opmask = expected(regs, bv)
    assert got.problems.tolist() == [0]
    assert (got.vectors[0] == vectors).all()
    assert (got.opmask[0] == opmask).all()
    assert got.present.tolist() == [saved]
    assert got.init.tolist() == [saved & ~bv]


def test_formats_may_mix_in_one_call() -> None:
    regs = Registers([[r << 8 | q for q in range(8)] for r in range(32)], list(range(8)))
    layout = layout_of(writer.AMD)
    one = writer.standard(regs, offsets=writer.AMD, xcr0=XCR0, xstate_bv=0xE7)
    two = writer.compacted(regs, saved=0x7, xstate_bv=0x7).ljust(len(one), b"\0")
    got = decode_images(rows(one, two), layout, ("ymm",))
    assert got.problems.tolist() == [0, 0]
    assert (got.vectors[0] == got.vectors[1]).all()
    assert got.vectors[1, 3].tolist() == [0x300, 0x301, 0x302, 0x303]


def damaged(at: int, value: int, *, compact: bool = False) -> np.ndarray:
    if compact:
        image = bytearray(writer.compacted(Registers(), saved=0x7, xstate_bv=0x7))
    else:
        image = bytearray(
            writer.standard(Registers(), offsets=writer.AMD, xcr0=0x7, xstate_bv=0x7)
        )
    image[at] = value
    image[160] = 0x77
    return rows(bytes(image))


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (damaged(520, 4), Problem.XCOMP_BV),
        (damaged(512, 0x27), Problem.BV_BEYOND_XCR0),
        (damaged(512, 0x27, compact=True), Problem.BV_BEYOND_XCOMP),
        (damaged(528, 1), Problem.RESERVED),
        (damaged(575, 1), Problem.RESERVED),
        (damaged(27, 0x80), Problem.MXCSR),
        (damaged(464, 0x3), Problem.BV_BEYOND_XCR0 | Problem.NOT_SAVED),
        (damaged(520, 3, compact=True), Problem.BV_BEYOND_XCOMP | Problem.NOT_SAVED),
        (damaged(0, 0)[:, :500], Problem.SHORT),
        (damaged(0, 0)[:, :800], Problem.SHORT),
    ],
)
def test_damage_is_named_and_no_value_delivered(image: np.ndarray, problem: Problem) -> None:
    got = decode_images(image, layout_of(writer.AMD), ("ymm",))
    assert Problem(int(got.problems[0])) == problem
    assert not got.vectors.any()


def test_cut_image_is_fine_while_the_rest_is_initial() -> None:
    image = bytearray(writer.standard(Registers(), offsets=writer.AMD, xcr0=7, xstate_bv=3))
    image[160] = 9
    got = decode_images(rows(bytes(image[:576])), layout_of(writer.AMD), ("ymm",))
    assert got.problems.tolist() == [0]
    assert got.vectors[0, 0].tolist() == [9, 0, 0, 0]


def test_class_without_a_place_is_refused() -> None:
    image = writer.standard(Registers(), offsets=writer.AMD, xcr0=XCR0, xstate_bv=XCR0)
    got = decode_images(rows(image), Layout({2: Place(576, 256)}), ("opmask",))
    assert got.problems.tolist() == [Problem.NO_PLACE]
    with pytest.raises(NotSupported, match="opmask"):
        plan_gather(Layout({2: Place(576, 256)}), ("opmask",))


@settings(max_examples=30, deadline=None)
@given(regs=registers(), bv=st.integers(0, 0xFF),
       classes=st.sampled_from([("xmm",), ("ymm",), ("zmm",), ALL, ("opmask",), ("gpr",)]),
       vendor=st.sampled_from(["intel", "amd"]))  # fmt: skip
def test_gather_equals_decode(
    regs: Registers, bv: int, classes: tuple[str, ...], vendor: str
) -> None:
    offsets = writer.INTEL if vendor == "intel" else writer.AMD
    image = writer.standard(regs, offsets=offsets, xcr0=XCR0, xstate_bv=bv & XCR0)
    plan = plan_gather(layout_of(offsets), classes)
    out = np.full(len(plan.index), 0xDEAD, np.uint64)
    plan.gather(np.frombuffer(image[: plan.image_bytes], np.uint64), out)
    got = decode_images(rows(image), layout_of(offsets), classes)
    block = np.concatenate([got.vectors[0].reshape(-1), got.opmask[0]])
    assert (out == block).all()
    assert len(out) == plan.registers * plan.qwords + plan.predicates


def test_gather_asks_for_no_more_of_the_image_than_it_reads() -> None:
    layout = layout_of(writer.INTEL)
    sizes = [plan_gather(layout, c).image_bytes for c in (("xmm",), ("ymm",), ("opmask",), ALL)]
    assert sizes == [576, 832, 1152, 2688]


def test_a_place_of_another_size_than_the_component_s_is_no_place() -> None:
    image = writer.standard(Registers(), offsets=writer.AMD, xcr0=XCR0, xstate_bv=XCR0)
    for size in (0, 100, 255, 264, 4096):
        got = decode_images(rows(image), Layout({2: Place(576, size)}), ("ymm",))
        assert got.problems.tolist() == [Problem.NO_PLACE], size
        assert not got.vectors.any()
