"""The one seam to `perf`, the Python binding that comes with the distribution's perf.

Everything here works without it. Where it is present it adds the CPU vendor's event names
(`pmus`, perf 7.0) and a second opinion on symbols (`session`, perf 7.3); it cannot carry vector
registers in any release, so nothing else is asked of it.

The binding is never imported into this process. Its releases crash on inputs that look harmless,
print to descriptor 2, keep the interpreter lock while they wait, and a distribution's shim raises
errors of its own at import. A child process asks it one thing, with its output thrown away, and
answers in JSON; whatever goes wrong there is an answer too.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# From the least to the most: each is told by an attribute of the module, never by calling it.
TIERS = ("none", "basic", "parse_events", "pmus", "session")
TIER_TEXT = {
    "none": "not installed; everything but vendor event names works without it",
    "basic": "counting only; no use to perfxmm",
    "parse_events": "parses event strings (perf 6.17); perfxmm's own resolver does that",
    "pmus": "vendor event names (perf 7.0)",
    "session": "vendor event names and symbols by session (perf 7.3)",
}
TIMEOUT_S = 20.0

# Runs in the child. Descriptor 1 is moved away first: what the binding prints must not mix with
# the answer. BaseException: a shim may call sys.exit at import.
_CHILD = r"""
import json, os, sys
answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1), os.dup2(null, 2)
out = {}
try:
    import perf
    out["path"] = str(getattr(perf, "__file__", "") or "")
    out["has"] = [n for n in ("evsel", "parse_events", "pmus", "session") if hasattr(perf, n)]
    if "evsel" not in out["has"]:
        out["why"] = "a module named perf that is not the kernel's binding"
    elif sys.argv[1] == "events" and "pmus" in out["has"]:
        table = out["events"] = {}
        for pmu in perf.pmus():
            for event in pmu.events():
                name, encoding = event.get("name"), event.get("encoding_desc")
                if name and encoding:
                    table.setdefault(name.lower(), []).append(encoding)
    elif sys.argv[1] == "symbols" and "session" in out["has"]:
        rows = out["samples"] = []
        def sample(event):
            rows.append([event.sample_time, event.sample_tid, event.sample_ip, event.symbol,
                         event.sym_start, event.dso, event.dso_bid])
        perf.session(perf.data(sys.argv[2]), sample=sample).process_events()
except BaseException as error:
    out["why"] = f"{type(error).__name__}: {error}".split("\n")[0][:300]
json.dump(out, answer)
answer.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Binding:
    """What was found. tier: one of TIERS. path: the module's file. why: what stands in the way."""

    tier: str
    path: str = ""
    why: str = ""

    @property
    def usable(self) -> bool:
        return self.tier != "none"

    def to_dict(self) -> dict[str, str]:
        return {**asdict(self), "meaning": TIER_TEXT[self.tier]}


@dataclass(frozen=True, slots=True)
class SessionSample:
    """One sample as the binding's session sees it. None where it knows nothing."""

    time_ns: int
    tid: int
    ip: int
    symbol: str | None
    symbol_start: int | None
    dso: str | None
    build_id: str | None


@dataclass
class PerfBinding:
    """The binding as one interpreter finds it. Answers are kept.

    environment: of the child; None is this process's own. Tests put a fake module on its path.
    """

    python: str = sys.executable
    environment: Mapping[str, str] | None = None
    timeout_s: float = TIMEOUT_S
    _binding: Binding | None = field(default=None, repr=False)
    _events: dict[str, list[str]] | None = field(default=None, repr=False)

    def inspect(self) -> Binding:
        """Which tier is here. Never raises."""
        if self._binding is None:
            self._binding = self._inspect()
        return self._binding

    def events(self) -> dict[str, list[str]]:
        """Vendor event name, lower case -> its event strings ("cpu/event=0xc0,umask=0x1/"), one
        per PMU. Empty where the tier is below "pmus" or the binding failed."""
        if self._events is None:
            self._events = {}
            if self.inspect().tier in ("pmus", "session"):
                self._events = self._ask("events").get("events", {})
        return self._events

    def encodings(self, name: str) -> list[str]:
        """The event strings behind a vendor's event name; empty where it is unknown."""
        return self.events().get(name.lower(), [])

    def symbols(self, path: str) -> list[SessionSample]:
        """Every sample of a recording as the session resolves it; empty below tier "session".

        Tested with a fake module only: no released distribution of this tier ran the tests. The
        session refuses recordings with vector registers.
        """
        if self.inspect().tier != "session":
            return []
        return [SessionSample(*row) for row in self._ask("symbols", path).get("samples", [])]

    def _inspect(self) -> Binding:
        if self.environment is None and not _is_installed():
            return Binding("none")
        answer = self._ask("inspect")
        path, why = answer.get("path", ""), answer.get("why", "")
        has = answer.get("has", [])
        if "evsel" not in has:
            if why.startswith("ModuleNotFoundError"):
                why = ""
            return Binding("none", path, why)
        best = max((tier for tier in TIERS if tier in has), key=TIERS.index, default="basic")
        return Binding(best, path, why)

    def _ask(self, *question: str) -> dict[str, Any]:
        try:
            # -P: a file called perf.py in the working directory is nobody's binding.
            run = subprocess.run(
                [self.python, "-P", "-c", _CHILD, *question], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=self.timeout_s,
                check=False, env=None if self.environment is None else dict(self.environment),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"why": f"no answer in {self.timeout_s:g} s"}
        except OSError as error:
            return {"why": f"{self.python}: {error.strerror}"}
        if run.returncode < 0:
            return {"why": f"the binding crashed with signal {-run.returncode}"}
        try:
            answer = json.loads(run.stdout)
        except ValueError:
            return {"why": f"the child process ended with status {run.returncode}"}
        return answer if isinstance(answer, dict) else {}


HERE = PerfBinding()


def _is_installed() -> bool:
    """Looks for the file only: finding a top-level module's place runs nothing of it."""
    try:
        return importlib.util.find_spec("perf") is not None
    except (ImportError, ValueError):
        return False
