"""The verb `module`: what it takes, and what it says where the module is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fake_module import RELEASE, write_module_sysfs
from support.inprocess import run

from perfxmm.cli.module import parse_mask
from perfxmm.errors import UsageError
from perfxmm.sources.kmodule.state import read_state


def _plain(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reload",),
         "module cannot 'reload'\n  use build, load, unload, status, sign-help, selftest"),
        (("status", "--nmi", "ipi"), "module status does not take --nmi"),
        (("build", "--hz", "1", "--ssp"), "module build does not take --hz, --ssp"),
        (("load", "--headers", "/x"), "module load does not take --headers"),
        (("load", "--mask", "sse"), "--mask 'sse' is not a mask"),
        (("load", "--mask", "0"), "--mask '0' is not a mask"),
        (("load", "--file", "/none.ko", "--nmi", "timer"), "--nmi 'timer' is not known"),
    ],
)  # fmt: skip
def test_what_it_does_not_take(arguments: tuple[str, ...], message: str) -> None:
    ran = run("module", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"perfxmm: {message}")


def test_masks() -> None:
    assert [parse_mask(text) for text in ("", "0xe6", "230")] == [None, 0xE6, 230]
    with pytest.raises(UsageError):
        parse_mask("0x10000000000000000")


def test_building_without_headers_names_what_is_missing(tmp_path: Path) -> None:
    ran = run("module", "build", "--kernel", RELEASE, "--headers", tmp_path)
    assert ran.code == 4
    assert ran.err.startswith(
        f"perfxmm: the headers of kernel {RELEASE} are not installed ({tmp_path})"
    )


def test_nothing_is_loaded_that_was_not_built(tmp_path: Path) -> None:
    if read_state(environment={"XDG_CACHE_HOME": str(tmp_path)}).file:
        pytest.skip("a module is installed on this machine")
    ran = run("module", "load", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("yet\n  perfxmm module build\n")


def test_status_as_json_says_what_read_state_says() -> None:
    state = read_state()
    ran = run("module", "status", "--json")
    told = json.loads(ran.out)
    assert told.pop("schema") == "perfxmm.module/1"
    wanted = state.to_dict()
    if state.status is None:
        assert told == wanted
    assert (told["state"], ran.code) == (state.state, 0 if state.status else 4)


def test_a_loaded_module_on_a_screen(tmp_path: Path) -> None:
    from perfxmm.views.module import status

    write_module_sysfs(tmp_path)
    text = _plain(status(read_state(tmp_path, RELEASE, environment={"HOME": "/none"}).to_dict()))
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith(f"xsaves_nmi is loaded for kernel {RELEASE}\n")
    for wanted in (["nmi", "ipi"], ["rfbm", "0x8e6"], ["running", "yes"], ["kernel_hits", "no"],
                   ["7", "1024", "1664", "1"], ["dropped_kernel", "290"]):  # fmt: skip
        assert wanted in lines


def test_a_module_that_is_missing_on_a_screen(tmp_path: Path) -> None:
    from perfxmm.views.module import status

    state = read_state(tmp_path, "6\x1b[2J", environment={"HOME": "/none"}).to_dict()
    text = _plain(status(state))
    assert text.startswith("xsaves_nmi is not built, and cannot be as things are for kernel 6\\x1b")
    assert "\x1b" not in text


def test_sign_help(tmp_path: Path) -> None:
    file = tmp_path / "xsaves_nmi.ko"
    ran = run("module", "sign-help", "--file", file, "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["schema"], told["action"]) == (0, "perfxmm.module/1", "sign-help")
    assert told["steps"][-2]["command"].endswith(f" {file}")
    assert told["steps"][-1] == {"text": "Load it.", "command": "perfxmm module load"}
    shown = run("module", "sign-help", "--file", file).out
    for step in told["steps"]:
        assert f"     {step['command']}\n" in shown
