"""Notebooks run from top to bottom at a tiny size, and are kept without outputs."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks.pages import write_page

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDI_TOUR", "4,4")
    monkeypatch.setenv("REDI_RESULTS", str(FOLDER.parent / "experiments"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, "strip outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [
        output.data["image/png"] for output in shown if "image/png" in output.get("data", {})
    ]
    assert pictures
    check_page(notebook, pictures, path.stem, tmp_path / "page")


def check_page(notebook: Any, pictures: list[str], name: str, folder: Path) -> None:
    """The page has every cell and what it printed, in order, and the pictures beside it."""
    text = write_page(notebook, name, folder).read_text("utf-8")
    at = 0
    for cell in notebook.cells:
        at = text.index(cell.source.strip(), at) + len(cell.source.strip())
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                at = text.index(output.text.strip(), at)
    files = [folder / file for file in re.findall(r"^!\[\]\((.+)\)$", text, re.M)]
    assert [file.read_bytes() for file in files] == [base64.b64decode(p) for p in pictures]
    assert {*folder.iterdir()} == {*files, folder / f"{name}.md"}
    assert str(folder.parent) not in text
    assert f"notebooks/{name}.md" in (FOLDER.parent / "mkdocs.yml").read_text()
