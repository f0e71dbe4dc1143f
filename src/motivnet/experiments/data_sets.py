"""Data sets as a benchmark names them: what others call them, where they are, and which split."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from motivnet.data.manifest import Manifest
from motivnet.experiments.protocols import NAMES


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataName:
    """A data set as the user names it: `[NAME=]KIND:PATH[?OPTIONS][@SPLIT]`.

    Args:
        name: of the data set, such as `FER-2013`: under which others have published, and which tells what a model may
            have seen.
        source: what `read_source` takes.
        split: the publisher's split; None for all of them.
    """

    name: str
    source: str
    split: str | None

    @property
    def title(self) -> str:
        """Name and split."""
        return f"{self.name} {self.split}" if self.split else self.name


def parse_data(text: str) -> DataName:
    """Take a data set's name apart; without NAME it is that of its kind, or of its file or folder.

    An `@` in the path itself is taken for that of a split if no `/` follows: end the text in `@` then.
    """
    match = re.fullmatch(r"(?:(?P<name>[^:=/\\]+)=)?(?P<source>[^:]*:.*?)(?:@(?P<split>[^@/\\]*))?", text, re.DOTALL)
    if not match:
        return DataName(name=text, source=text, split=None)
    kind, _, path = match["source"].partition(":")
    name = match["name"] or NAMES.get(kind) or Path(path.partition("?")[0]).stem or text
    return DataName(name=name, source=match["source"], split=match["split"] or None)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set that could be read.

    Args:
        named: as the user names it.
        manifest: its images.
        detect: whether faces are looked for.
    """

    named: DataName
    manifest: Manifest
    detect: bool


def about(each: DataSet) -> dict[str, Any]:
    """Say what a data set is: name, source, split, n, fingerprint, labels, subjects, dropped, detect."""
    table = each.manifest.table
    labels, subjects = table["label"].to_pylist(), set(table["subject"].to_pylist()) - {None}
    return {
        "name": each.named.name,
        "source": each.named.source,
        "split": each.named.split,
        "n": len(each.manifest),
        "fingerprint": each.manifest.fingerprint(),
        "labels": {label: labels.count(label) for label in each.manifest.labels if label in labels},
        "subjects": len(subjects) or None,
        "dropped": dict(each.manifest.dropped),
        "detect": each.detect,
    }
