"""EmotioNet: the list of images with emotion categories, saved as CSV.

`URLsWithEmotionCat_aws.xlsx` has a column with the URL of every image, and sixteen columns of emotion categories that
are 1 if the category applies: six single ones, and compounds such as `happily_surprised`, which are not among the seven
emotions and are left out and counted. There is no neutral. The spreadsheet is published with a password: open it with
that, and save it as CSV. Columns `AU 1` to `AU 60`, if present, become the group `action_units`, such as `6+12`.

URLs are published, not images. The downloaded file is expected in the folder of images, at the path that follows
`/Images/` in the URL, or at the last part of it alone. The lists of action units (`dataFile_0001.txt`) have no emotions
and cannot be read.

Benitez-Quiroz et al., "EmotioNet", CVPR 2016; arXiv 1703.01210 (the challenge).
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import WILD, Rows, absolute, first_folder, image_path, read_records
from motivnet.errors import DataError, require
from motivnet.labels import EMOTIONS

COMPOUND = frozenset(
    f"{first}_{second}"
    for first in ("happily", "sadly", "fearfully", "angrily", "disgustedly")
    for second in ("happy", "sad", "fearful", "angry", "surprised", "disgusted", "surprise")
) | {"awed", "appalled", "hatred"}
UNIT = re.compile(r"au_?0*(\d+)")
FILE_COLUMNS = ("path", "file", "image")
# Numbers of single and of compound categories -> why a row is left out.
REASONS = {(1, 0): None, (0, 0): "no emotion category", (0, 1): "compound emotion"}
# Absent, or not annotated.
NOT_SET = {"", "0", "-1", "999"}


def read_emotionet(path: Path, *, root: Path | None = None) -> Manifest:
    """Read EmotioNet's emotion categories, as one split `all`.

    Args:
        path: the table, as CSV.
        root: the folder of the images; None: the folder `images` next to the table, or the table's own.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    folder = absolute(root or first_folder(path.parent, "images", "Images", "IMAGES") or path.parent)
    rows = Rows(path, EMOTIONS)
    if path.suffix.lower() == ".xlsx":
        raise DataError(f"{path}: a spreadsheet, which is published with a password. Allowed: saved as CSV")
    columns: _Columns | None = None
    for row, raw in read_records(path):
        cells = {name.strip().lower().replace(" ", "_"): cell.strip() for name, cell in raw.items()}
        if len(cells) != len(raw):
            raise DataError(f"{path}: columns that differ in case or spaces only, of {', '.join(raw)}")
        columns = columns or _Columns(path, list(cells))
        where = f"{path}, row {row}"
        single = [label for name, label in columns.single.items() if _is_set(cells[name], name, where)]
        compound = [name for name in columns.compound if _is_set(cells[name], name, where)]
        reason = REASONS.get((len(single), len(compound)), "several emotion categories")
        if reason:
            rows.dropped[reason] += 1
            continue
        units = [unit for name, unit in columns.units.items() if _is_set(cells[name], name, where)]
        groups = [("action_units", "+".join(units)), WILD] if units else [WILD]
        image = _local_file(folder, cells[columns.file], where)
        rows.add(path=image, label=single[0], split="all", groups=groups, row=row)
    return rows.manifest()


class _Columns:
    """The meaning of each column of a table; an unknown column is an error.

    Args:
        path: the table, for messages.
        names: its columns, in lower case, with `_` for spaces.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        files = [name for name in names if name in FILE_COLUMNS] + [name for name in names if name.startswith("url")]
        self.single = {name: label for name in names if (label := EMOTIONS.find(name))}
        self.compound = [name for name in names if name in COMPOUND]
        self.units = {name: match[1] for name in names if (match := UNIT.fullmatch(name))}
        known = {*files, *self.single, *self.compound, *self.units}
        unknown = [name for name in names if name not in known and "url" not in name]
        if not files or not self.single:
            lacking = "emotion categories" if files else "URLs or files (path)"
            raise DataError(f"{path}: columns of {lacking} are missing; found {', '.join(names)}")
        require(not unknown, f"{path}: columns {unknown} are neither URL, emotion category nor action unit", DataError)
        self.file = files[0]


def _is_set(text: str, name: str, where: str) -> bool:
    value = text.removesuffix(".0")
    if value != "1" and value not in NOT_SET:
        raise DataError(f"{where}: {name} {text!r}. Allowed: 1, 0, -1, 999, empty")
    return value == "1"


def _local_file(folder: str, name: str, where: str) -> str:
    if "://" not in name:
        return image_path(folder, name, where)
    address = urlsplit(name).path
    nested = image_path(folder, address.rpartition("/Images/")[2].lstrip("/"), where)
    return nested if Path(nested).is_file() else image_path(folder, address.rpartition("/")[2], where)
