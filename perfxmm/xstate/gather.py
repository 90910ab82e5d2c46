"""The per-stop path: one gather from the image's words to the register block's words.

A tracer meets thousands of images a second, one at a time, all of one format. Which image word
goes to which word of the register block (registers whole, low qword first, then opmasks) depends
on nothing but the layout, so it is computed once; a stop costs one `numpy.take`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.xstate.components import (
    AVX,
    HI16_ZMM,
    OPMASK,
    SSE,
    ZMM_HI256,
)
from perfxmm.xstate.image import vector_shape, wanted_components
from perfxmm.xstate.layout import Layout


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """Image words to block words.

    index: intp [vectors * qwords + predicates], word numbers in the image.
    image_bytes: as much of the image as the plan reads; ask the kernel for no more.
    components: mask of the components behind it.
    """

    index: npt.NDArray[np.intp]
    image_bytes: int
    components: int
    registers: int
    qwords: int
    predicates: int

    def gather(
        self, image: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]
    ) -> None:
        """Fills `out` (uint64 [len(index)]) from `image` (uint64 words).

        The image must be in the standard format with initial components zeroed, as the kernel's
        ptrace note is (copy_xstate_to_uabi_buf, Linux 5.10 and later).
        """
        # Mode "clip" lets numpy write straight into `out`; "raise" would go through a copy.
        np.take(image, self.index, out=out, mode="clip")


def plan_gather(
    layout: Layout, classes: frozenset[str] | set[str] | tuple[str, ...]
) -> GatherPlan:
    """The plan for these classes. Raises NotSupported where a component's place is not known."""
    registers, qwords = vector_shape(classes)
    words = np.zeros((registers, qwords), np.intp)
    pieces: list[npt.NDArray[np.intp]] = []

    def run(component: int, shape: tuple[int, int]) -> npt.NDArray[np.intp]:
        start = layout.require(component).offset // 8
        return np.arange(start, start + shape[0] * shape[1], dtype=np.intp).reshape(shape)

    if qwords:
        words[:16, 0:2] = run(SSE, (16, 2))
    if qwords >= 4:
        words[:16, 2:4] = run(AVX, (16, 2))
    if qwords == 8:
        words[:16, 4:8] = run(ZMM_HI256, (16, 4))
        words[16:, :] = run(HI16_ZMM, (16, 8))
    pieces.append(words.reshape(-1))
    if "opmask" in classes:
        pieces.append(run(OPMASK, (1, 8)).reshape(-1))
    components = sum(1 << n for n in wanted_components(classes))
    return GatherPlan(
        index=np.concatenate(pieces), image_bytes=layout.image_bytes(components),
        components=components, registers=registers, qwords=qwords,
        predicates=8 if "opmask" in classes else 0,
    )  # fmt: skip
