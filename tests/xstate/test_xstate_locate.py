"""Where components of an image lie, with the machine's table and without."""

from __future__ import annotations

import pytest
from support.xsave_writer import AMD, INTEL, SIZES

from perfxmm.xstate.layout import FLAG_ALIGN64, FLAG_SUPERVISOR, Layout, Place
from perfxmm.xstate.locate import locate

BIT63 = 1 << 63
AVX512 = 0xE7
VECTORS = {1: (160, 256), 2: (576, 256), 5: (832, 64), 6: (896, 512), 7: (1408, 1024)}


def places(*args: object, **kwargs: object) -> dict[int, tuple[int, int]]:
    found = locate(*args, **kwargs)  # type: ignore[arg-type]
    return {n: (p.offset, p.size_bytes) for n, p in found.items() if n}


def mask(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


@pytest.mark.parametrize("length", [2432, 2440, 8192, 100])
def test_compacted_vectors_need_no_table(length: int) -> None:
    """All of them end at multiples of 64 bytes, so that alignment changes nothing."""
    assert places(BIT63 | AVX512, AVX512, length) == VECTORS


def test_compacted_with_holes() -> None:
    saved = mask(0, 1, 2, 5)
    assert places(BIT63 | saved, saved, 896) == {1: (160, 256), 2: (576, 256), 5: (832, 64)}
    assert places(BIT63 | mask(1, 5), mask(1, 5), 640) == {1: (160, 256), 5: (576, 64)}


def test_behind_pkru_alignment_matters() -> None:
    saved = AVX512 | mask(9, 11)
    packed = {**VECTORS, 9: (2432, 8), 11: (2440, 16)}
    assert places(BIT63 | saved, saved, 2456) == packed
    # A longer image may hold an aligned one: 2440 or 2496 is not known.
    del packed[11]
    assert places(BIT63 | saved, saved, 2512) == packed
    assert places(BIT63 | saved, saved, 4096) == packed


def test_first_behind_the_vectors_is_certain() -> None:
    saved = AVX512 | mask(11)
    assert places(BIT63 | saved, saved, 4096)[11] == (2432, 16)


@pytest.mark.parametrize(("flags", "at"), [(0, 2440), (FLAG_ALIGN64, 2496)])
def test_the_recorded_table_decides(flags: int, at: int) -> None:
    rows = {n: Place(AMD.get(n, 0), SIZES[n]) for n in (2, 5, 6, 7, 9)}
    rows[11] = Place(0, 16, FLAG_SUPERVISOR | flags)
    saved = AVX512 | mask(9, 11)
    found = places(BIT63 | saved, saved, 4096, Layout(rows))
    assert found[11] == (at, 16)


def test_components_of_unknown_size_end_the_walk() -> None:
    saved = AVX512 | mask(15, 19)  # LBR: CPUID alone knows
    assert places(BIT63 | saved, saved, 4096) == VECTORS
    assert places(BIT63 | saved | 1 << 40, saved, 4096) == VECTORS


def test_known_supervisor_components_are_stepped_over() -> None:
    saved = AVX512 | mask(8, 19)
    found = places(BIT63 | saved, saved, 2432 + 128 + 128)
    assert found[19] == (2560, 128)


def test_a_table_with_another_size_is_not_used() -> None:
    rows = {2: Place(576, 128), 5: Place(832, 64)}
    assert 2 not in places(BIT63 | mask(1, 2, 5), mask(1, 2, 5), 4096, Layout(rows))


@pytest.mark.parametrize(
    ("offsets", "requested", "length"),
    [
        (INTEL, AVX512, 2688), (INTEL, AVX512, 2696), (AMD, AVX512, 2432), (AMD, AVX512, 2440),
        (INTEL, AVX512 | 1 << 9, 2696), (AMD, AVX512 | 1 << 9, 2440),
        (INTEL, mask(0, 1, 2, 5), 1088 + 64), (AMD, mask(0, 1, 2, 5), 832 + 64),
    ],
)  # fmt: skip
def test_standard_images_by_the_vendors_tables(
    offsets: dict[int, int], requested: int, length: int
) -> None:
    numbers = [n for n in range(2, 63) if requested >> n & 1]
    expected = {1: (160, 256), **{n: (offsets[n], SIZES[n]) for n in numbers}}
    assert places(0, requested, length) == expected


@pytest.mark.parametrize("length", [832, 840, 1024, 2696, 4096])
def test_avx_lies_at_576_everywhere(length: int) -> None:
    assert places(0, 7, length) == {1: (160, 256), 2: (576, 256)}


@pytest.mark.parametrize("length", [4096, 2700, 2431])
def test_a_standard_image_of_no_known_length_has_no_avx512(length: int) -> None:
    assert places(0, AVX512, length) == {1: (160, 256), 2: (576, 256)}


def test_standard_images_by_the_recorded_table() -> None:
    rows = {n: Place(INTEL[n], SIZES[n]) for n in (2, 5, 6, 7)}
    found = places(0, AVX512, 5000, Layout(rows))
    assert found == {1: (160, 256), **{n: (INTEL[n], SIZES[n]) for n in (2, 5, 6, 7)}}


def test_an_xcomp_bv_that_no_instruction_writes_places_nothing() -> None:
    assert places(7, 7, 4096) == {}
