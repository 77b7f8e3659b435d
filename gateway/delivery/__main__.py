"""Rewrites the generated part of a page with the policy tables: `python -m gateway.delivery docs/delivery.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.delivery.policy import describe

BEGIN = "<!-- generated from gateway/delivery/policy.py: begin -->"
END = "<!-- end -->"


def main(path: str) -> None:
    page = Path(path)
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{describe()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
