"""Rewrites the generated part of a page with the notifiers' tables: `python -m gateway.notifiers docs/notifiers.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.notifiers.tables import describe

BEGIN = "<!-- generated from gateway/notifiers: begin -->"
END = "<!-- end -->"


def main(path: str) -> None:
    page = Path(path)
    before, rest = page.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{describe()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
