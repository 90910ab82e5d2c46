"""The code speaks: what the instructions before a sample's IP prove of its registers."""

from perfxmm.coherence.witness.apply import apply
from perfxmm.coherence.witness.testimony import Testimony, Witness

__all__ = ["Testimony", "Witness", "apply"]
