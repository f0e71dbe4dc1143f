"""The JSON that MotivNet's reference code reads: `{label: [file, ...]}`, with rows numbered over all labels.

`{"happiness": ["a.jpg", "b.jpg"], "anger": ["c.jpg"]}`
"""

import json
from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import Rows, absolute, image_path, label_of_name
from motivnet.errors import DataError


def read_motivnet_json(path: Path, *, root: Path | None = None, split: str = "all") -> Manifest:
    """Read lists of files by label; synonyms such as `happy` are understood.

    Args:
        path: the JSON file.
        root: the folder that image names are relative to; None: the file's.
        split: name of the only split.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    try:
        pairs = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=list)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    rows, folder, row = Rows(path), absolute(root or path.parent), 0
    given: set[str] = set()
    # Objects arrive as lists of pairs, so that no repeated key is lost.
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and isinstance(pair[1], list) for pair in pairs):
        raise DataError(f"{path}: not {{label: [file, ...]}}")
    for name, files in pairs:
        if name in given:
            raise DataError(f"{path}: label {name!r} is repeated")
        given.add(name)
        label = label_of_name(name, f"{path}, row {row}")
        for file in files:
            where = f"{path}, row {row} ({name})"
            if not isinstance(file, str):
                raise DataError(f"{where}: {file!r} is not a file name")
            rows.add(path=image_path(folder, file, where), label=label, split=split, row=row)
            row += 1
    return rows.manifest()
