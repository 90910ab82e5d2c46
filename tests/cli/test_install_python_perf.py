"""scripts/install-python-perf: what it refuses, and the link it makes. Nothing is installed here:
the link is tried only where the distribution's module already is."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-python-perf"
MODULE = "perf" + str(sysconfig.get_config_var("EXT_SUFFIX"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def python(tmp_path: Path) -> Path:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    return tmp_path / "venv/bin/python"


def packages(python: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python.parent.parent / "lib" / version / "site-packages"


def installed() -> bool:
    return any(
        path for root in ("/usr/lib", "/usr/lib64") for path in Path(root).glob(f"*/*/{MODULE}")
    )


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--source=TREE" in done.stdout
    assert run("--no-such").returncode == 2


def test_never_into_a_system_python() -> None:
    done = run(str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"))
    assert done.returncode == 1
    assert "not in a virtual environment" in done.stderr or "There is no Python" in done.stderr


def test_links_the_one_module(python: Path) -> None:
    if not installed():
        pytest.skip("the distribution's module is not installed for this interpreter")
    done = run(str(python))
    assert done.returncode == 0, done.stderr
    linked = packages(python) / MODULE
    assert linked.is_symlink()
    assert [path.name for path in packages(python).iterdir()] == [MODULE]
    subprocess.run([str(python), "-P", "-c", "import perf; perf.evsel"], check=True, timeout=60)


def test_another_module_in_the_way(python: Path) -> None:
    if not installed():
        pytest.skip("the distribution's module is not installed for this interpreter")
    (packages(python) / "perf").mkdir(parents=True)
    done = run(str(python))
    assert done.returncode == 1
    assert "is in the way" in done.stderr


def test_a_tree_that_is_no_kernel(python: Path, tmp_path: Path) -> None:
    for tool in ("gcc", "make", "flex", "bison"):
        if subprocess.run(["which", tool], capture_output=True, check=False).returncode:
            pytest.skip(f"{tool} is not here, and the script would bring it")
    if not Path("/usr/include/libelf.h").exists():
        pytest.skip("libelf's header is not here, and the script would bring it")
    done = run(f"--source={tmp_path}", str(python))
    assert done.returncode == 1
    assert "is no kernel source" in done.stderr
