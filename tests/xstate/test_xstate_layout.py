"""Layouts: CPUID, its fallbacks, the vendor table, compacted arithmetic, JSON."""

from __future__ import annotations

import pytest

from perfxmm.errors import NotSupported
from perfxmm.xstate import cpuid
from perfxmm.xstate.components import classes_in, component_numbers
from perfxmm.xstate.layout import FLAG_ALIGN64, FLAG_SUPERVISOR, Layout, Place, vendor_layout

AVX512 = 0xE7
MPX = 0x18
PKU = 1 << 9


def offsets(layout: Layout | None) -> dict[int, int]:
    assert layout is not None
    return {n: p.offset for n, p in layout.places.items()}


@pytest.mark.parametrize(
    ("xcr0", "length", "expected"),
    [
        (AVX512 | MPX | PKU, 2696,
         {2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688}),  # Skylake-X
        (AVX512 | PKU, 2696, {2: 576, 5: 1088, 6: 1152, 7: 1664, 9: 2688}),  # Ice Lake: MPX gone
        (AVX512, 2688, {2: 576, 5: 1088, 6: 1152, 7: 1664}),
        (AVX512 | PKU | 3 << 17, 11008,
         {2: 576, 5: 1088, 6: 1152, 7: 1664, 9: 2688, 17: 2752, 18: 2816}),  # Sapphire Rapids
        (AVX512 | PKU, 2440, {2: 576, 5: 832, 6: 896, 7: 1408, 9: 2432}),  # Zen 4
        (AVX512, 2432, {2: 576, 5: 832, 6: 896, 7: 1408}),
        (7 | PKU, 840, {2: 576, 9: 832}),  # Zen 3
        (7, 832, {2: 576}),
        (3, 576, {}),
    ],
)  # fmt: skip
def test_vendor_table(xcr0: int, length: int, expected: dict[int, int]) -> None:
    assert offsets(vendor_layout(xcr0, length)) == expected


@pytest.mark.parametrize(
    ("xcr0", "length"),
    [(AVX512 | PKU, 2700), (AVX512, 2696), (0x27, 2432), (7 | 1 << 19, 960), (7 | 1 << 40, 832)],
)
def test_vendor_table_refuses_what_does_not_fit(xcr0: int, length: int) -> None:
    assert vendor_layout(xcr0, length) is None


def test_json_round_trip() -> None:
    layout = Layout({2: Place(576, 256), 11: Place(0, 16, FLAG_SUPERVISOR),
                     18: Place(2816, 8192, FLAG_ALIGN64)}, 7)  # fmt: skip
    assert layout.to_json() == {"2": [576, 256], "18": [2816, 8192]}
    read = Layout.from_json(layout.to_json(), 7)
    assert read == Layout({2: Place(576, 256), 18: Place(2816, 8192)}, 7, "recording")


@pytest.mark.parametrize("bad", [{"1": [0, 1]}, {"x": [0, 1]}, {"2": [1]}, {"2": [-1, 5]}])
def test_json_refuses_nonsense(bad: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Layout.from_json(bad)


def test_compacted_places_align_and_stop_at_the_unknown() -> None:
    layout = Layout({2: Place(576, 256), 9: Place(832, 8), 11: Place(0, 16, 1),
                     19: Place(960, 128, FLAG_ALIGN64)})  # fmt: skip
    places = layout.compacted(1 << 63 | 1 << 2 | 1 << 9 | 1 << 11 | 1 << 19)
    assert {n: p.offset for n, p in places.items()} == {
        0: 0, 1: 160, 2: 576, 9: 832, 11: 840, 19: 896,
    }  # fmt: skip
    # Component 15 (LBR) has no architectural size: what lies behind it cannot be found.
    assert 19 not in layout.compacted(1 << 63 | 1 << 2 | 1 << 15 | 1 << 19)


def test_supervisor_component_has_no_standard_place() -> None:
    layout = Layout({11: Place(0, 16, FLAG_SUPERVISOR)})
    assert layout.place(11) is None
    with pytest.raises(NotSupported, match="cet_user"):
        layout.require(11)


def test_image_bytes_reach_to_the_last_component_wanted() -> None:
    layout = vendor_layout(AVX512 | PKU | 3 << 17, 11008)
    assert layout is not None
    assert [layout.image_bytes(m) for m in (3, 7, AVX512, AVX512 | PKU)] == [576, 832, 2688, 2696]


def test_masks_by_name() -> None:
    assert component_numbers(1 << 63 | 0xE7) == (0, 1, 2, 5, 6, 7)
    assert classes_in(7) == ("xmm", "ymm")
    assert classes_in(AVX512) == ("xmm", "ymm", "zmm", "opmask")


def fake_cpuid(rows: dict[tuple[int, int], tuple[int, int, int, int]]) -> cpuid.CpuidCall:
    return lambda leaf, subleaf: rows.get((leaf, subleaf), (0, 0, 0, 0))


def test_enumeration_reads_user_and_supervisor_components() -> None:
    rows = {(0, 0): (0x1F, 0, 0, 0), (0xD, 0): (0x60007, 0, 0, 0), (0xD, 1): (0xF, 0, 0x800, 0),
            (0xD, 2): (256, 576, 0, 0), (0xD, 11): (16, 0, 1, 0), (0xD, 17): (64, 2752, 2, 0),
            (0xD, 18): (8192, 2816, 6, 0)}  # fmt: skip
    layout = cpuid.enumerate_layout(fake_cpuid(rows), 0)
    assert layout.xcr0 == 0x60007
    assert layout.places == {
        2: Place(576, 256), 11: Place(0, 16, FLAG_SUPERVISOR), 17: Place(2752, 64, FLAG_ALIGN64),
        18: Place(2816, 8192, FLAG_ALIGN64),
    }  # fmt: skip


def test_cpu_without_the_leaf_has_an_empty_layout() -> None:
    assert cpuid.enumerate_layout(fake_cpuid({(0, 0): (0xB, 0, 0, 0)}), 3).places == {}


def test_both_code_pages_answer_the_same() -> None:
    first, second = cpuid._map_memfd(), cpuid._map_anonymous()
    assert first is not None
    assert second is not None
    for leaf, subleaf in ((0, 0), (0xD, 0), (0xD, 2)):
        assert cpuid._call_at(first)(leaf, subleaf) == cpuid._call_at(second)(leaf, subleaf)


def test_device_agrees_where_it_can_be_read() -> None:
    device = cpuid._device_call()
    call, _ = cpuid.cpuid_call()
    if device is None or call is None:
        pytest.skip("/dev/cpu/0/cpuid cannot be read here")
    assert device(0xD, 2) == call(0xD, 2)
    assert cpuid._device_call("/dev/null") is None


def test_fallback_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpuid, "_map_memfd", lambda: None)
    cpuid.cpuid_call.cache_clear()
    try:
        assert cpuid.cpuid_call()[1] == "cpuid (anonymous page)"
        monkeypatch.setattr(cpuid, "_map_anonymous", lambda: None)
        monkeypatch.setattr(cpuid, "_device_call", lambda: fake_cpuid({}))
        cpuid.cpuid_call.cache_clear()
        assert cpuid.cpuid_call()[1] == "/dev/cpu/0/cpuid"
        monkeypatch.setattr(cpuid, "_device_call", lambda: None)
        cpuid.cpuid_call.cache_clear()
        assert offsets(cpuid.machine_layout(AVX512 | PKU, 2440))[5] == 832
        with pytest.raises(NotSupported, match="XSAVE layout"):
            cpuid.machine_layout(AVX512 | PKU, 1)
    finally:
        cpuid.cpuid_call.cache_clear()


def test_this_machine_tells_its_xcr0() -> None:
    value = cpuid.xgetbv()
    assert value is not None
    assert value & 3 == 3
    layout = cpuid.machine_layout()
    assert all(layout.place(n) for n in component_numbers(value))
