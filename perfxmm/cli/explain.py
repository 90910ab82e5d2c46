"""perfxmm explain: what a verdict, a reason code or a rule means, and where it comes from."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """
Examples:
  perfxmm explain                 every verdict, reason and rule, a line each
  perfxmm explain foreign         why some snapshots are withheld
"""


def _names(incomplete: str) -> list[str]:
    from perfxmm.coherence.explain import known_names

    return sorted(name for name in known_names() if name.startswith(incomplete))


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A verdict, reason or rule (all of them without one).", autocompletion=_names
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a verdict, a reason code or a rule."""
    from perfxmm.cli.console import results, write_json
    from perfxmm.coherence import explain as tables

    found = None if name is None else tables.explain(name)
    if as_json:
        write_json(tables.everything() if found is None else found.to_dict())
        return
    from perfxmm.views import explain as view

    results().print(view.overview() if found is None else view.one(found))
