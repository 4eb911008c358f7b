"""The support table says what the checks find."""

from __future__ import annotations

import pytest
from support import FEATURES, NEEDS, PAGE, check
from tiny_pipelines import PIPELINES


def table() -> dict[str, dict[str, str]]:
    """Cells of the committed page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_support_table_is_what_the_checks_find(name: str) -> None:
    always = [feature for feature in FEATURES if feature not in NEEDS]
    assert {f: table()[name][f] for f in always} == {f: check(name, f) for f in always}


@pytest.mark.parametrize("feature", NEEDS)
@pytest.mark.parametrize("name", PIPELINES)
def test_so_it_is_with_features_that_need_a_package(name: str, feature: str) -> None:
    pytest.importorskip(NEEDS[feature])
    assert table()[name][feature] == check(name, feature)
