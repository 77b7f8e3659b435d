"""Marks of tests that need programs of an operator's network: what is not tested is said, with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.tour.operator.programs import missing


def needs(programs: Mapping[str, str]) -> pytest.MarkDecorator:
    """Program → Debian package."""
    packages = missing(programs)
    return pytest.mark.skipif(bool(packages), reason=f"NOT TESTED: apt install {packages}")
