"""Marks of tests that need programs of an operator's network: what is not tested is said, with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.tour.operator.programs import missing


def needs(programs: Mapping[str, str]) -> pytest.MarkDecorator:
    """Program → Debian package."""
    remedy = missing(programs)
    return pytest.mark.skipif(bool(remedy), reason=f"NOT TESTED: {remedy}")
