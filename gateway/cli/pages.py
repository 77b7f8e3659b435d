"""`heliograph docs`: writes the generated pages; must never touch a page that people write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import say

command = typer.Typer(add_completion=False)


def generated() -> dict[str, Callable[[], str]]:
    """File name in docs/ → what builds it."""
    from gateway.cli import errors, im_operations
    from gateway.config import settings
    from gateway.metrics import sink

    return {
        "config.md": settings.build_page,
        "errors.md": errors.build_page,
        "im-operations.md": im_operations.build_page,
        "metrics.md": sink.build_page,
    }


@command.command()
def docs(
    folder: Annotated[Path, typer.Argument(help="Where the pages are.")] = Path("docs"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 where a page is not current.")] = False,
) -> None:
    """Write config.md, errors.md, im-operations.md and metrics.md again from the code they describe."""
    stale = []
    for name, build in generated().items():
        page, text = folder / name, build()
        if page.is_file() and page.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
            say(f"wrote {page}")
    if stale and check:
        say(f"not current: {', '.join(stale)}; run `make docs`")
        raise typer.Exit(1)
