"""The machine room's modules are a package beside its command, not installed."""

import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2] / "scripts" / "vm"
if str(ROOM) not in sys.path:
    sys.path.insert(0, str(ROOM))
