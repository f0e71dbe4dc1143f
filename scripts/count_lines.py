"""Count the package: lines of code by room, files, and the longest functions.

A line of code is a line that bears a token other than a comment, and belongs to no docstring. A function's length is
counted in the same way.

    python scripts/count_lines.py            # the package
    python scripts/count_lines.py src tests  # any folders
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Definition = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Definition | ast.ClassDef | ast.Module


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines of `text` that are code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, Definition | ast.ClassDef | ast.Module)
            and ast.get_docstring(node, clean=False) is not None
        ):
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def functions(text: str, lines: set[int]) -> dict[str, int]:
    """Return the length of each function of `text` in lines of code, by name."""
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, Definition))
    return {node.name: sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines) for node in found}


def main(folders: list[str]) -> None:
    """Print the counts of the Python files below `folders`."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    rooms: Counter[str] = Counter()
    room_files: Counter[str] = Counter()
    lengths: list[tuple[int, str]] = []
    physical = 0
    for path in files:
        text = path.read_text("utf-8")
        physical += text.count("\n")
        lines = code_lines(text)
        room = str(path.parent)
        rooms[room] += len(lines)
        room_files[room] += 1
        lengths += [(length, f"{path}:{name}") for name, length in functions(text, lines).items()]
    for room in sorted(rooms):
        print(f"{rooms[room]:7,} lines of code in {room_files[room]:3} files  {room}")
    lengths.sort(reverse=True)
    for length, name in lengths[:5]:
        print(f"{length:7} lines of code  {name}")
    total = sum(rooms.values())
    print(f"{total:7,} lines of code, {physical:,} lines, {len(files)} files, longest function {lengths[0][0]}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["src/motivnet"])
