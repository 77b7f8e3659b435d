"""Units of the gateway, each beside what a user would have taken instead: pytest-benchmark, compared as ratios."""
