"""The support table says what the checks find."""

from __future__ import annotations

import pytest
from support import FEATURES, PAGE, check
from tiny_pipelines import PIPELINES


def table() -> dict[str, dict[str, str]]:
    """Cells of the committed page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_support_table_is_what_the_checks_find(name: str) -> None:
    assert table()[name] == {feature: check(name, feature) for feature in FEATURES}
