"""Runs the `perfxmm` command as a user would, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

PERFXMM = (sys.executable, "-m", "perfxmm")
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@cache
def python_for_nobody() -> tuple[str, dict[str, str]] | None:
    """A Python that an unprivileged user can run perfxmm with, and its environment.

    The interpreter of the checks may lie in a private home; the system's own of the same version
    then serves. None where there is neither, or where users cannot be changed.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))])
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python, env in (
        (sys.executable, {}),
        (f"/usr/bin/python{minor}", {"PYTHONPATH": paths}),
    ):
        # The shell in between makes sure that the capabilities are gone when Python starts.
        tried = subprocess.run(
            [*AS_NOBODY, "sh", "-c", f"exec {python} -c 'import perfxmm.cli.main, numpy, typer'"],
            env={**os.environ, **env}, cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        if tried.returncode == 0:
            return python, env
    return None


def run_as_nobody(*arguments: str | Path, prefix: Sequence[str | Path] = ()) -> Ran:
    """As `run`, as the user nobody without capabilities; skips where that cannot be done."""
    found = python_for_nobody()
    if found is None:
        pytest.skip("no Python here that another user can run, or not root")
    python, env = found
    return run(*arguments, prefix=(*prefix, *AS_NOBODY), env=env, cwd=Path("/"), python=python)


@dataclass(frozen=True)
class Ran:
    """How a command ended. Every run is held to this: no traceback, whatever happened."""

    code: int
    out: str
    err: str


def run(
    *arguments: str | Path,
    prefix: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 60.0,
    python: str = sys.executable,
    script: bool = False,
    stdin: bytes = b"",
) -> Ran:
    """`perfxmm ARGUMENTS`, under `prefix` (setpriv, a seccomp launcher, ...).

    script: by the installed script instead of `python -m` (completion goes by the name).
    """
    command = [str(Path(python).with_name("perfxmm"))] if script else [python, *PERFXMM[1:]]
    done = subprocess.run(
        [*map(str, prefix), *command, *map(str, arguments)],
        input=stdin, capture_output=True, timeout=timeout_s, cwd=cwd,
        env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
    ran = Ran(done.returncode, done.stdout.decode("utf-8", "replace"),
              done.stderr.decode("utf-8", "replace"))  # fmt: skip
    assert "Traceback (most recent call last)" not in ran.err, ran.err
    return ran
