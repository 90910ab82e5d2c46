"""`perfxmm ARGUMENTS` inside the test's own process: the same front door, no start-up."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from unittest import mock

from support.command import Ran

from perfxmm.cli.main import main


def run(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ran:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with (
        mock.patch.object(sys, "stdout", out), mock.patch.object(sys, "stderr", err),
        mock.patch.dict(os.environ, env or {}), chdir(cwd or Path.cwd()),
    ):  # fmt: skip
        code = main([str(argument) for argument in arguments])
    texts = [s.buffer.getvalue().decode("utf-8", "replace") for s in (out, err)]
    return Ran(code, *texts)
