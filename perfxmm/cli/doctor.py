"""perfxmm doctor: what can be sampled here, and what it takes where not."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """
Examples:
  perfxmm doctor                  sources, register classes, permissions, and what each "no" needs
  perfxmm doctor --json | jq '.sources[] | {name, works, why}'
"""


def doctor(
    short: Annotated[bool, typer.Option("--short", help="A few lines.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Every probe, with the attr that was asked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say what can be sampled here, from which source, which register classes.

    For every "no": what was tried, what the kernel answered, and the smallest change that would
    help. Asks only; nothing is changed and nobody else's process is touched.
    Exits with 0 where anything can be sampled, 3 where a permission is missing, 4 otherwise.
    """
    from perfxmm.analysis.capability import diagnose
    from perfxmm.cli.console import results, write_json
    from perfxmm.cli.machine import gather

    found = diagnose(gather())
    if as_json:
        write_json(found.to_dict())
    else:
        from perfxmm.views import doctor as view

        results().print(view.short(found) if short else view.full(found, verbose=verbose))
    return found.exit_code
