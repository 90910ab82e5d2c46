"""Fuzzes the decoders of XSAVE images and of samples, without a file around them.

    python scripts/fuzz/decode.py CORPUS -runs=2000000 -max_len=4096 -timeout=10 \\
        -rss_limit_mb=2048

Needs atheris. The input is read as a structure (tests/support/fuzz_decoding.py says which): its
first byte says whether images, samples or snapshots of source nmi follow; then come the layout of
the images, the fields of one or two attrs and the sizes of records, or a tracepoint's format and
what its records say; the rest are the words. It needs no seeds: every input means something.
tests/fuzz/corpus has some.
"""

from __future__ import annotations

import harness

import atheris  # isort: skip

with atheris.instrument_imports(include=["perfxmm"]):
    import perfxmm.coherence
    import perfxmm.snapshots.decode
    import perfxmm.xstate.image  # noqa: F401

from support.fuzz_decoding import decode_something

if __name__ == "__main__":
    harness.start(decode_something)
