"""Write the notebooks in `examples/` from the tutorials in `docs/`.

    python scripts/docs_notebooks.py

Blocks of commands and of Python become cells, everything else text. Without nbformat, which would be one more package
for a dictionary: `tests/e2e/test_examples.py` has it check the notebooks when it runs them.
"""

import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "examples"
TUTORIALS = {page.stem.removeprefix("tutorial-"): page for page in sorted((ROOT / "docs").glob("tutorial-*.md"))}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?\[[^]]*\]\()([^)#:\s]+)")


def notebook(page: Path) -> dict[str, object]:
    """Turn a tutorial into a notebook of format 4.5, without outputs."""
    parts = BLOCK.split(page.read_text(encoding="utf-8"))
    cells = [_text(parts[0])]
    for kind, code, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        cells += [_code(kind, code), _text(text)]
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(filter(None, cells))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": numbered}


def _text(markdown: str) -> dict[str, object] | None:
    # Pictures and pages lie in docs/, the notebooks beside it.
    moved = LINK.sub(lambda match: match[1] + posixpath.join("../docs", match[2]), markdown.strip())
    return {"cell_type": "markdown", "metadata": {}, "source": moved} if moved else None


def _code(kind: str, code: str) -> dict[str, object]:
    magic = "%%bash --bg\n" if "motivnet serve" in code else "%%bash\n"
    source = (magic if kind == "sh" else "") + code.rstrip()
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, page in TUTORIALS.items():
        text = json.dumps(notebook(page), indent=1, ensure_ascii=False)
        (OUT / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
