"""What `import perfxmm` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import perfxmm


def test_the_public_names() -> None:
    assert set(perfxmm.__all__) == {"Recording", "__version__", "open", "record"}
    assert dir(perfxmm) == sorted(perfxmm.__all__)
    from perfxmm.recorder import record
    from perfxmm.recording import Recording
    from perfxmm.recording import open as open_recording

    assert perfxmm.open is open_recording
    assert perfxmm.Recording is Recording
    assert perfxmm.record is record
    with pytest.raises(AttributeError, match="no attribute 'close'"):
        _ = perfxmm.close


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, perfxmm; perfxmm.__version__; "
        "print([m for m in ('numpy', 'rich', 'typer', 'pyarrow', 'iced_x86') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_does_not_load_a_disassembler() -> None:
    code = "import sys, perfxmm; perfxmm.open; print('iced_x86' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
