"""Pages and tables agree with the code: generated pages, error numbers, metrics in use, clauses in README."""

import re
from pathlib import Path

import pytest

from gateway.cli.pages import generated
from gateway.config.im import NETWORKS
from gateway.config.im_section import Im
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ERRORS, GatewayError
from gateway.notifiers import build_notifiers
from gateway.notifiers.__main__ import BEGIN, END
from gateway.notifiers.tables import describe

ROOT = Path(__file__).parents[2]
CLAUSES = [
    *(f"A{n}" for n in range(1, 7)),
    *(f"B{n}" for n in range(1, 8)),
    "C1",
    "C5",
    "C7",
    "C8",
    "C9",
    "C10",
    "C13",
    "C14",
    *(f"D{n}" for n in range(1, 17)),
    *(f"E{n}" for n in range(1, 9)),
    "F",
]
PAGE_NAMES = [
    "apns-door",
    "benchmarks",
    "campaigns",
    "cards",
    "cluster",
    "config",
    "delivery",
    "diameter",
    "errors",
    "frames",
    "glossary",
    "identity",
    "im",
    "im-media",
    "im-networks",
    "im-operations",
    "ims",
    "ip",
    "load",
    "metrics",
    "notifiers",
    "operations",
    "ota",
    "paging",
    "provider",
    "scale",
    "service-pages",
    "sms",
    "t8",
    "threads",
    "trigger",
    "wap",
    "webpush",
]
PAGES = ["README.md", "ARCHITECTURE.md", "LICENSE"] + [f"docs/{name}.md" for name in PAGE_NAMES]


@pytest.mark.parametrize("name", generated())
def test_a_generated_page_is_current(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == generated()[name](), "run `make docs`"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_there_and_says_something(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) > 10


def test_the_example_of_the_readme_is_the_file_it_names() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert block == (ROOT / "example.py").read_text()


def rows(text: str) -> set[str]:
    """Clauses that begin a row of a table: `| A1 |`, `| **A1** |`."""
    return set(re.findall(r"^\|\s*\**([A-F]\d*)\**\s*\|", text, re.MULTILINE))


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_feature_table_has_a_row_for_each_clause(clause: str) -> None:
    assert clause in rows((ROOT / "README.md").read_text())


def test_a_missing_row_is_found() -> None:
    assert rows("| A1 | x |\n| **B2** | y |\nA3 and | A4 |\n") == {"A1", "B2"}


def classes(cls: type[GatewayError] = GatewayError) -> list[type[GatewayError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in classes(sub))]


def test_error_numbers_and_names_are_unique() -> None:
    own = [cls for cls in classes() if cls.__module__ == "gateway.model.errors"]
    assert len({cls.code for cls in own}) == len(own) == len(ERRORS)
    assert len({cls.name for cls in own}) == len(own)


@pytest.mark.parametrize("cls", ERRORS.values(), ids=lambda cls: cls.name)
def test_an_error_says_what_it_means_and_when_to_retry(cls: type[GatewayError]) -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    assert f"| {cls.code} | `{cls.name}` |" in page
    assert cls.summary.endswith(".")
    assert 400 <= cls.status < 600
    assert cls.retryable or cls.after_ms == 0


def test_every_metric_is_counted_somewhere() -> None:
    used: set[str] = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        if path.name != "names.py":
            used |= set(re.findall(r"\bMetric\.([A-Z][A-Z0-9_]+)", path.read_text()))
    assert {metric.name for metric in Metric} - used == set()
    assert used - set(Metric.__members__) == set()


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".md")])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_notifiers_page_has_their_tables_as_they_are() -> None:
    page = (ROOT / "docs" / "notifiers.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n{describe()}\n{END}" in page, "run `make docs`"
    for name in build_notifiers(Config(), Metrics(process=False), PushIds(b"k" * 16)):
        assert f"`{name}`" in page


def test_every_make_target_named_in_a_page_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named: set[str] = set()
    for name in PAGES:
        if name.endswith(".md"):
            named |= set(re.findall(r"`make ([a-z-]+)`", (ROOT / name).read_text()))
    assert named - targets == set()


def test_the_page_of_im_names_every_setting_that_bounds_a_user() -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("im.md", "im-media.md"))
    bounds = [name for name in Im.__dataclass_fields__ if name.endswith(("_per_user", "_per_minute", "_per_day"))]
    assert [name for name in bounds if f"im.{name}" not in pages] == []


def test_the_page_of_networks_has_a_part_for_each() -> None:
    page = (ROOT / "docs" / "im-networks.md").read_text()
    parts = {part.lower() for part in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    assert set(NETWORKS) - parts == set()
