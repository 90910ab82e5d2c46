"""Fixtures shared by all tests. tests/ itself is on sys.path: helpers are `support.*`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recordings that others wrote, kept beside the checkout; skips where they are not there."""
    path = TESTS.parent.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared recordings are not beside this checkout")
    return path
