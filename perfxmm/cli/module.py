"""perfxmm module: builds, loads, unloads and describes the kernel module of source nmi."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfxmm.cli import complete
from perfxmm.errors import UsageError

if TYPE_CHECKING:
    from perfxmm.sources.kmodule.loading import Parameters

ACTIONS = ("build", "load", "unload", "status", "sign-help", "selftest")
EXAMPLES = """
Examples:
  perfxmm module build                  for the running kernel, into ~/.cache/perfxmm/kmod
  sudo perfxmm module load --nmi ipi    NMIs from a timer on another CPU: needs no PMU
"""


def module(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="build, load, unload, status, sign-help or "
                            "selftest.", autocompletion=complete.choice(*ACTIONS))
    ],
    release: Annotated[
        str, typer.Option("--kernel", metavar="RELEASE", help="build: for another kernel.")
    ] = "",
    headers: Annotated[
        str, typer.Option("--headers", metavar="DIR", help="build: where its headers are.")
    ] = "",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="DIR", help="build: where to build.")
    ] = "",
    file: Annotated[
        str, typer.Option("--file", metavar="FILE", help="load, sign-help: this module file.")
    ] = "",
    nmi: Annotated[
        str, typer.Option("--nmi", metavar="pmu|ipi|self", help="load: who sends the NMIs: a PMU "
                          "counter (default), another CPU, the CPU itself (tests).",
                          autocompletion=complete.choice("pmu", "ipi", "self"))
    ] = "",
    hz: Annotated[
        int | None, typer.Option("--hz", metavar="HZ", help="load: hits a second and CPU (999).")
    ] = None,
    period: Annotated[
        int | None, typer.Option("--period", metavar="N", help="load: cycles between hits of the "
                                 "PMU, instead of --hz.")
    ] = None,
    mask: Annotated[
        str, typer.Option("--mask", metavar="BITS", help="load: XSAVE components, as 0xe6; all "
                          "vector registers and opmasks if not given.")
    ] = "",
    instruction: Annotated[
        str, typer.Option("--instruction", metavar="auto|xsaves|xsavec|xsave",
                          help="load: how to save.",
                          autocompletion=complete.choice("auto", "xsaves", "xsavec", "xsave"))
    ] = "",
    ssp: Annotated[
        bool, typer.Option("--ssp", help="load: the shadow stack pointer as well.")
    ] = False,
    kernel_hits: Annotated[
        bool, typer.Option("--kernel-hits", help="load: hits in kernel mode as well. They may hold "
                           "keys.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="S", help="selftest: how long (5).")
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="nmi|pmu|sigtrap",
                          help="selftest: test another source in the same way.",
                          autocompletion=complete.choice("nmi", "pmu", "sigtrap"))
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Build, load, unload and describe the kernel module xsaves_nmi.

    It is what `record --source nmi` takes its snapshots from. build needs the running kernel's
    headers and its compiler; load and unload need CAP_SYS_MODULE; status and sign-help need
    nothing. Nothing else in perfxmm loads it.
    selftest samples a program with known constants in every register, compares them all, and
    prints a verdict that can be shared; it exits with 0 (passed), 1 (failed) or 4 (undecided).
    """
    given: dict[str, Any] = {
        "--kernel": release, "--headers": headers, "--output": output, "--file": file,
        "--nmi": nmi, "--hz": hz, "--period": period, "--mask": mask,
        "--instruction": instruction, "--ssp": ssp, "--kernel-hits": kernel_hits,
        "--seconds": seconds, "--source": source,
    }  # fmt: skip
    _check(action, {name for name, value in given.items() if value not in ("", None, False)})
    if action == "build":
        return _build(release, headers, output, as_json=as_json)
    if action == "load":
        from perfxmm.sources.kmodule.loading import Parameters

        wanted = Parameters(nmi or None, hz, period, parse_mask(mask), instruction or None, ssp,
                            kernel_hits)  # fmt: skip
        return _load(file, wanted, as_json=as_json)
    if action == "unload":
        return _unload(as_json=as_json)
    if action == "status":
        return _status(as_json=as_json)
    if action == "selftest":
        return _selftest(source or "nmi", seconds, as_json=as_json)
    return _sign_help(file, as_json=as_json)


_BUILD = frozenset(("--kernel", "--headers", "--output"))
_TAKES = {
    "build": _BUILD,
    "load": frozenset(("--file", "--nmi", "--hz", "--period", "--mask", "--instruction", "--ssp",
                       "--kernel-hits")),
    "sign-help": frozenset(("--file",)),
    "selftest": frozenset(("--seconds", "--source")),
}  # fmt: skip


def _check(action: str, given: set[str]) -> None:
    if action not in ACTIONS:
        raise UsageError(f"module cannot {action!r}", next_step="use " + ", ".join(ACTIONS))
    extra = sorted(given - _TAKES.get(action, frozenset()))
    if extra:
        raise UsageError(f"module {action} does not take {', '.join(extra)}",
                         next_step="see perfxmm module --help")  # fmt: skip


def parse_mask(text: str) -> int | None:
    """XSAVE components from "0xe6" or "230"; None for "". Raises UsageError."""
    if not text:
        return None
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 < value < 1 << 64:
        raise UsageError(f"--mask {text!r} is not a mask", next_step="a number such as 0xe6")
    return value


def _build(release: str, headers: str, output: str, *, as_json: bool) -> int:
    import os

    from perfxmm.cli.console import say
    from perfxmm.sources.kmodule.building import build
    from perfxmm.sources.kmodule.distribution import read_distribution
    from perfxmm.sources.kmodule.place import build_folder
    from perfxmm.sources.kmodule.toolchain import find_toolchain

    release = release or os.uname().release
    toolchain = find_toolchain(release, read_distribution(),
                               headers=Path(headers).absolute() if headers else None)  # fmt: skip
    if toolchain.remark:
        say(toolchain.remark)
    folder = Path(output).absolute() if output else build_folder(release)
    built = build(toolchain, folder)
    _print({"action": "build", "file": str(built.file), "kernel": built.release,
            "vermagic": built.vermagic, "headers": str(toolchain.headers),
            "compiler": toolchain.compiler.text if toolchain.compiler else None},
           f"built {built.file} for {built.vermagic}", as_json=as_json)  # fmt: skip
    return 0


def _load(file: str, wanted: Parameters, *, as_json: bool) -> int:
    from perfxmm.kernel.modulecalls import LinuxModuleCalls
    from perfxmm.sources.kmodule.loading import load
    from perfxmm.sources.kmodule.place import MODULE, find_module

    around = _around()
    path = Path(file) if file else find_module(around.release)
    if path is None:
        raise UsageError(f"there is no module for kernel {around.release} yet",
                         next_step="perfxmm module build")  # fmt: skip
    load(path, wanted, LinuxModuleCalls(), around)
    _print({"action": "load", "file": str(path), "parameters": wanted.text()},
           f"loaded {MODULE} {wanted.text()}".rstrip(), as_json=as_json)  # fmt: skip
    return 0


def _unload(*, as_json: bool) -> int:
    from perfxmm.kernel.modulecalls import LinuxModuleCalls
    from perfxmm.sources.kmodule.loading import unload
    from perfxmm.sources.kmodule.place import MODULE

    unload(LinuxModuleCalls(), _around())
    _print({"action": "unload"}, f"unloaded {MODULE}", as_json=as_json)
    return 0


def _status(*, as_json: bool) -> int:
    from perfxmm.cli.console import results, write_json
    from perfxmm.sources.kmodule.state import read_state

    state = read_state()
    if as_json:
        write_json({"schema": "perfxmm.module/1", **state.to_dict()})
    else:
        from perfxmm.views.module import status

        results().print(status(state.to_dict()))
    return 0 if state.status else 4


def _sign_help(file: str, *, as_json: bool) -> int:
    from dataclasses import asdict

    from perfxmm.cli.console import results, write_json
    from perfxmm.sources.kmodule.place import find_module
    from perfxmm.sources.kmodule.signing import read_signing, steps

    around = _around()
    signing = read_signing(around.release, around.situation)
    path = Path(file).absolute() if file else find_module(around.release)
    todo = [asdict(one) for one in steps(signing, path)]
    facts = {"secure_boot": signing.secure_boot, "signatures_enforced": signing.enforced,
             "lockdown": signing.lockdown, "needed": signing.needed}  # fmt: skip
    if as_json:
        write_json({"schema": "perfxmm.module/1", "action": "sign-help", **facts, "steps": todo})
    else:
        from perfxmm.views.module import sign_help

        results().print(sign_help(facts, todo))
    return 0


def _selftest(source: str, seconds: float | None, *, as_json: bool) -> int:
    from perfxmm.cli.console import results, say, write_json
    from perfxmm.selftest import SECONDS, selftest

    if source not in ("nmi", "pmu", "sigtrap"):
        raise UsageError(f"--source {source!r} is not known", next_step="use nmi, pmu, sigtrap")
    if seconds is not None and seconds <= 0:
        raise UsageError(f"--seconds must be greater than zero, not {seconds}")
    found = selftest(source, seconds or SECONDS, on_source=say)
    if as_json:
        write_json(found.to_dict())
    else:
        from perfxmm.views.module import selftest_verdict

        results().print(selftest_verdict(found.to_dict()))
    return found.exit_code


def _around() -> Any:
    import os

    from perfxmm.kernel.situation import survey
    from perfxmm.sources.kmodule.loading import read_surroundings

    return read_surroundings(survey(), os.uname().release)


def _print(values: dict[str, Any], line: str, *, as_json: bool) -> None:
    from perfxmm.cli.console import say, write_json

    if as_json:
        write_json({"schema": "perfxmm.module/1", **values})
    else:
        say(line)
