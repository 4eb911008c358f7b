"""The notebooks as pages of the documentation, run from top to bottom with what they show.

python -m notebooks.pages       # into docs/notebooks, for make docs; about a minute
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent
PAGES = NOTEBOOKS.parent / "docs" / "notebooks"


def executed(path: Path) -> Any:
    """The notebook with its outputs, run in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=1200, resources=resources).execute()
    return notebook


def write_page(notebook: Any, name: str, folder: Path) -> Path:
    """The notebook as `folder/NAME.md`, its pictures as `NAME-1.png`, ... beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.png"):
        old.unlink()
    parts, pictures = [], 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        if number == 0:
            parts.append(f"This page is `notebooks/{name}.ipynb`, run from top to bottom.")
        if cell.cell_type != "code":
            continue
        parts.append(fenced("python", cell.source))
        for output in cell.outputs:
            shown = output.get("data", {})
            if "image/png" in shown:
                pictures += 1
                file = folder / f"{name}-{pictures}.png"
                file.write_bytes(base64.b64decode(shown["image/png"]))
                parts.append(f"![]({file.name})")
            elif "text/markdown" in shown:
                parts.append(shown["text/markdown"])
            elif output.output_type == "stream" and output.name == "stdout":
                parts.append(fenced("text", output.text))
    page = folder / f"{name}.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def main() -> None:
    os.environ |= {"REDI_RESULTS": str(NOTEBOOKS.parent / "experiments"), "REDI_TOUR": "16,20"}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"Running {path.name} for its page", flush=True)
        write_page(executed(path), path.stem, PAGES)


if __name__ == "__main__":
    main()
