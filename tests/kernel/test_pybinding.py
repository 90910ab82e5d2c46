"""The binding behind its seam: fake modules of every tier, each in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import fake_sysfs

from perfxmm.kernel.events import Catalogue, resolve
from perfxmm.kernel.maps import online_cpus
from perfxmm.kernel.pybinding import Binding, PerfBinding, SessionSample

BASIC = "class evsel: pass\n"
PARSE = BASIC + "def parse_events(text): raise SystemError\n"
PMUS = PARSE + """
import os, sys
class _Pmu:
    def __init__(self, name, events): self._name, self._events = name, events
    def name(self): return self._name
    def events(self): return self._events
def pmus():
    os.write(1, b"noise on 1\\n"); os.write(2, b"noise on 2\\n"); print("more noise")
    return [
        _Pmu("cpu", [{"name": "INST_RETIRED.ANY", "encoding_desc": "cpu/event=0xc0,umask=0x1/"},
                     {"name": "no.encoding", "encoding_desc": None}, {"desc": "nameless"}]),
        _Pmu("uncore_imc_0", [{"name": "unc_m.x", "encoding_desc": "uncore_imc_0/event=0x1/"}]),
        _Pmu("uncore_imc_1", [{"name": "unc_m.x", "encoding_desc": "uncore_imc_1/event=0x1/"}]),
    ]
"""
SESSION = PMUS + """
class data:
    def __init__(self, path): self.path = path
class _Sample:
    sample_time, sample_tid, sample_ip = 5, 7, 0x401136
    symbol, sym_start, dso, dso_bid = "axpy", 0x401120, "/bin/app", "aa"
class _Unknown(_Sample):
    symbol = sym_start = dso = dso_bid = None
class session:
    def __init__(self, data, sample): self._path, self._sample = data.path, sample
    def process_events(self):
        assert self._path == "some.data"
        self._sample(_Sample()); self._sample(_Unknown())
"""


def binding(tmp_path: Path, module: str, timeout_s: float = 20.0) -> PerfBinding:
    (tmp_path / "perf.py").write_text(module)
    return PerfBinding(
        environment={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout_s=timeout_s
    )


@pytest.mark.parametrize(
    ("module", "tier"),
    [(BASIC, "basic"), (PARSE, "parse_events"), (PMUS, "pmus"), (SESSION, "session")],
    ids=["basic", "parse_events", "pmus", "session"],
)
def test_tier(module: str, tier: str, tmp_path: Path) -> None:
    assert binding(tmp_path, module).inspect() == Binding(tier, str(tmp_path / "perf.py"))


# A module's text, the reason that is given. None of them may reach this process.
BROKEN = [
    ("x = 1", "a module named perf that is not the kernel's binding"),
    ("raise RuntimeError('linux-tools for this kernel not found\\nmore')",
     "RuntimeError: linux-tools for this kernel not found"),
    ("import sys; sys.exit('no perf for kernel 7')", "SystemExit: no perf for kernel 7"),
    ("import os; os.kill(os.getpid(), 11)", "the binding crashed with signal 11"),
    ("import os; os._exit(3)", "the child process ended with status 3"),
    ("import ctypes; ctypes.CDLL('no-such-library.so')", None),
    ("def f(:", None),
]  # fmt: skip


@pytest.mark.parametrize(("module", "why"), BROKEN)
def test_broken(module: str, why: str | None, tmp_path: Path) -> None:
    seen = binding(tmp_path, module)
    found = seen.inspect()
    assert found.tier == "none"
    assert not found.usable
    assert found.why == why if why is not None else found.why
    assert seen.events() == {}
    assert seen.symbols("some.data") == []


def test_hangs(tmp_path: Path) -> None:
    found = binding(tmp_path, "import time; time.sleep(60)", timeout_s=0.5).inspect()
    assert found == Binding("none", "", "no answer in 0.5 s")


def test_not_installed(tmp_path: Path) -> None:
    seen = PerfBinding(environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    found = seen.inspect()
    if found.tier != "none":
        pytest.skip("this environment has the binding")
    assert found == Binding("none")


def test_a_crash_while_listing_is_an_empty_list(tmp_path: Path) -> None:
    crash = PARSE + "import os\ndef pmus(): os.kill(os.getpid(), 11)\n"
    seen = binding(tmp_path, crash)
    assert seen.inspect().tier == "pmus"
    assert seen.events() == {}


def test_vendor_events(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen = binding(tmp_path, PMUS)
    assert seen.events() == {
        "inst_retired.any": ["cpu/event=0xc0,umask=0x1/"],
        "unc_m.x": ["uncore_imc_0/event=0x1/", "uncore_imc_1/event=0x1/"],
    }
    assert seen.encodings("Inst_Retired.ANY") == ["cpu/event=0xc0,umask=0x1/"]
    assert seen.encodings("nothing") == []
    assert capfd.readouterr() == ("", "")


def test_vendor_names_resolve(tmp_path: Path) -> None:
    machine = fake_sysfs.server(tmp_path / "sys")
    catalogue = Catalogue(machine, vendor=binding(tmp_path, PMUS).encodings)
    [event] = resolve("inst_retired.any:u", catalogue)
    assert (event.name, event.attr.type, event.attr.config) == ("inst_retired.any:u", 4, 0x1C0)


def test_session_symbols(tmp_path: Path) -> None:
    assert binding(tmp_path, SESSION).symbols("some.data") == [
        SessionSample(5, 7, 0x401136, "axpy", 0x401120, "/bin/app", "aa"),
        SessionSample(5, 7, 0x401136, None, None, None, None),
    ]


def test_a_failing_session_is_an_empty_list(tmp_path: Path) -> None:
    assert binding(tmp_path, SESSION).symbols("other.data") == []


def test_never_imported_here() -> None:
    """Nothing of perfxmm pulls the binding into its own process."""
    code = (
        "import sys; from perfxmm.kernel.pybinding import HERE; HERE.inspect(); HERE.events(); "
        "assert 'perf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_distribution_binding(tmp_path: Path) -> None:
    """The real one, where the distribution's has this interpreter's ABI."""
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    found = [*Path("/usr/lib/python3/dist-packages").glob(f"perf.{tag}-*.so"),
             *Path("/usr/lib64").glob(f"python3*/site-packages/perf.{tag}-*.so")]  # fmt: skip
    if not found:
        pytest.skip("no distribution binding for this interpreter")
    (tmp_path / found[0].name).symlink_to(found[0])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    binding = PerfBinding(environment=environment).inspect()
    if binding.tier == "none":
        pytest.skip(f"the distribution's binding does not load here: {binding.why}")
    assert Path(binding.path).name == found[0].name
    cpus = subprocess.run(
        [sys.executable, "-P", "-c", "import perf; print(list(perf.cpu_map()))"],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert cpus.stdout.strip() == str(list(online_cpus()))
