"""The `perfxmm` command: finds the verb, runs it, and turns every error into one line and a code.

A verb's module is imported when that verb is run (or completed, or asked for its help), so that
`perfxmm --help` costs little more than importing typer. What a verb's module may offer:

    def VERB(...)        the function, options as typer annotations; returns None or an exit code
    EXAMPLES             worked examples for the end of its --help, laid out by hand
    CONTEXT_SETTINGS     settings of the command line parser, where it needs its own
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from perfxmm import __version__
from perfxmm.errors import PerfxmmError

EXIT_OTHER = 1
EXIT_USAGE = 2
# 128 + SIGINT and 128 + SIGPIPE, as a shell would report a program that these signals ended.
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141

# Verb -> (module, function, one line of help), in the order in which --help shows them.
VERBS: dict[str, tuple[str, str, str]] = {
    "doctor": ("perfxmm.cli.doctor", "doctor", "Say what can be sampled here, and what it needs."),
    "list": ("perfxmm.cli.list", "list_", "List events, PMUs and register classes."),
    "record": ("perfxmm.cli.record", "record", "Sample a command, process or CPU into a file."),
    "script": ("perfxmm.cli.script", "script", "Print each snapshot as text."),
    "report": ("perfxmm.cli.report", "report", "Rank where snapshots fell and what they held."),
    "export": ("perfxmm.cli.export", "export", "Write snapshots as JSON lines, CSV or Parquet."),
    "inspect": ("perfxmm.cli.inspect", "inspect", "Say what a recording consists of."),
    "module": ("perfxmm.cli.module", "module", "Build, load and describe the kernel module."),
    "verify": ("perfxmm.cli.verify", "verify", "Count registers that contradict their code."),
    "explain": ("perfxmm.cli.explain", "explain", "Explain a verdict, a reason code or a rule."),
}  # fmt: skip

ABOUT = """Sample vector registers with Linux perf events and see what they held.

\b
First steps:
  perfxmm doctor                  what this machine can do
  perfxmm record -- ./app         sample a program into perf.data
  perfxmm report                  where its time went, and what its registers held
"""
COMPLETION_HINT = "Tab completion: perfxmm --install-completion (bash, zsh, fish)."


class _ReaderGone(Exception):
    """Whoever read our standard output has closed it. Not an OSError: typer acts on those."""


class _Interrupted(Exception):
    """Ctrl-C, past typer: its releases differ in what they make of it."""


class _Plain:
    """In place of typer's RuntimeParam: values that need no conversion, else what it does.

    From typer 0.26 on, every value goes through a pydantic adapter, even an option that was not
    given or text that stays text, and importing pydantic takes longer than all of typer.
    """

    def __init__(self, usual: Callable[[], Any], *, is_text: bool) -> None:
        self._usual = usual
        self._is_text = is_text

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or (self._is_text and type(value) is str):
            return value
        return self._usual().coerce(value, param=param, ctx=ctx)


def _plainly(parameters: list[Any]) -> list[Any]:
    """Gives `parameters` a _Plain. Those of a typer that is built differently stay as they are."""
    for parameter in parameters:
        usual = getattr(parameter, "get_runtime_param", None)
        descriptor = getattr(parameter, "type_descriptor", None)
        if usual is None or descriptor is None or "get_runtime_param" in vars(parameter):
            continue
        many = getattr(parameter, "nargs", 1) != 1 or getattr(parameter, "multiple", False)
        if not many and getattr(descriptor.parameter_info, "parser", None) is None:
            plain = _Plain(usual, is_text=descriptor.annotation is str)
            parameter.get_runtime_param = lambda plain=plain: plain
    return parameters


class Verb(TyperCommand):
    """A verb's command."""

    # typer brings its own copy of click from 0.26 on and uses the click package before that, so
    # the types of arguments and results have no one name here and below: Any.
    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))


class LazyGroup(TyperGroup):
    """Knows the verbs by name and one line; imports the module of the one that is wanted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for verb, (_, _, line) in VERBS.items():
            self.commands[verb] = TyperCommand(verb, help=line, rich_markup_mode=None)

    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name in VERBS:
            command = load(name)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None
        except KeyboardInterrupt:
            raise _Interrupted from None


def load(verb: str) -> Any:
    """The click command of `verb`, from its module."""
    module_name, function_name, line = VERBS[verb]
    module = importlib.import_module(module_name)
    examples = getattr(module, "EXAMPLES", "").strip("\n")
    single = typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    single.command(
        verb, cls=Verb, short_help=line,
        # \b keeps the parser's help writer from filling the lines of a paragraph.
        epilog="\n\n".join("\b\n" + part for part in examples.split("\n\n")) if examples else None,
        context_settings=getattr(module, "CONTEXT_SETTINGS", None),
    )(getattr(module, function_name))  # fmt: skip
    return typer.main.get_command(single)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"perfxmm {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="perfxmm", cls=LazyGroup, no_args_is_help=True, rich_markup_mode=None,
    pretty_exceptions_enable=False, help=ABOUT, epilog=COMPLETION_HINT,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code.

    The one place where errors become text and codes. Nothing that the outside world can cause
    (a bad option, a refused call, a full disk, a closed pipe, Ctrl-C) shows a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows its escape instead of ending the work.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = app(
            list(sys.argv[1:] if arguments is None else arguments),
            standalone_mode=False, prog_name="perfxmm",
        )  # fmt: skip
        sys.stdout.flush()
    except PerfxmmError as error:
        return _fail(str(error), error.exit_code)
    except _ReaderGone:
        return _leave_stdout(EXIT_READER_GONE)
    except BrokenPipeError:
        return _leave_stdout(EXIT_READER_GONE)
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        place = f"{error.filename!r}: " if error.filename is not None else ""
        return _leave_stdout(_fail(f"{place}{error.strerror or error}", EXIT_OTHER))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise  # our own mistake: the traceback is what a bug report needs
        return _command_line_error(error)
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the `perfxmm` script."""
    # Imports make a hundred thousand objects that stay: to look for garbage among them again and
    # again takes a tenth of the start-up. Columns are no garbage that the collector would find.
    gc.set_threshold(50_000)
    sys.exit(main())


def _fail(message: str, code: int) -> int:
    """Print `message`: what failed on the first line, the next step on those that follow."""
    from perfxmm.views.escape import escape_control

    lines = [escape_control(line) for line in message.splitlines() if line] or ["failed"]
    print(f"perfxmm: {lines[0]}", *(f"  {line}" for line in lines[1:]), sep="\n", file=sys.stderr)
    return code


def _command_line_error(error: Any) -> int:
    """An error of the command line parser. It has format_message, exit_code and ctx by duck type:
    its class is click's own before typer 0.26 and typer's private copy from there on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "perfxmm"
    message = error.format_message()
    # Run without a verb: the parser's "message" is the whole help.
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return EXIT_USAGE
    return _fail(f"{message}\nsee '{command} --help'", getattr(error, "exit_code", EXIT_USAGE))


def _leave_stdout(code: int) -> int:
    """Make sure that the interpreter's last flush of a broken stdout stays silent."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return code
