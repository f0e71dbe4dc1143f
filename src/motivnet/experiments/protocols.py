"""The protocol of a benchmark: its settings and data, which data a model has seen, and folds by subject.

Imports nothing heavy: `--help` reads it.

Shape suffixes: B images, S subjects, K folds, C classes.
"""

import dataclasses
import enum
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from motivnet.config import check_bounds, setting
from motivnet.errors import DataError, require
from motivnet.storage import ASSETS, read_csv

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

Restrict = Literal["keep", "renormalise"]


class Setting(enum.StrEnum):
    """What a model may have seen of a data set before it is scored on it."""

    ZERO_SHOT = "zero-shot"
    OWN_DOMAIN = "own domain"
    ADAPTED = "domain adaptation"
    UNSTATED = "training data not stated"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSettings:
    """The settings of a benchmark.

    Args:
        trained_on: model as the user named it -> names of the data sets that it was trained on, where its provenance
            does not say so, or is wrong.
        detect: names or titles of data sets whose images are photographs in which to detect faces; `all`: of every
            one. The images of the others are crops, or have boxes.
        restrict: Labels that a data set has no image of: keep them as possible answers, which are errors; or remove
            them and renormalise the other probabilities.
        num_folds: Folds by subject where there are subjects; 0: leave one subject out.
        seed: Of the resamples that give the intervals.
        num_resamples: of the intervals.
    """

    trained_on: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    detect: Sequence[str] = ()
    restrict: Restrict = setting("keep", flag="restrict-probs")
    num_folds: int = setting(10, flag="folds", min=0)
    seed: int = setting(0, min=0)
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: if a number is out of range.
        """
        check_bounds(self)
        require(self.num_folds != 1, "--folds 1. Allowed: 0, or at least 2")

    @property
    def resampling(self) -> dict[str, Any]:
        """Arguments of `bootstrap` and `paired_bootstrap`."""
        return {"num_resamples": self.num_resamples, "seed": self.seed}


def parse_trained_on(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse `MODEL=NAME,...` and `MODEL=none` for `BenchmarkSettings.trained_on`.

    Raises:
        ConfigError: if a text has another form.
    """
    found = {}
    for text in texts:
        model, _, names = text.rpartition("=")
        listed = tuple(name.strip() for name in names.split(",") if name.strip())
        require(model and listed, f"--trained-on {text!r}. Allowed: MODEL=NAME or MODEL=NAME,NAME; MODEL=none")
        found[model] = () if listed == ("none",) else listed
    return found


_DATA_SETS = read_csv(ASSETS / "data_sets.csv")
# The usual name of each data set, by the kind under which it is read.
NAMES = {row["kind"]: row["name"] for row in _DATA_SETS}

# Names for the same photographs, in letters and digits alone: FERPlus is FER-2013 with other labels.
SAME_IMAGES = {other: row["kind"] for row in _DATA_SETS for other in row["same_images"].split()}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataName:
    """A data set as the user names it: `[NAME=]KIND:PATH[?OPTIONS][@SPLIT]`.

    Args:
        name: of the data set, such as `FER-2013`: under which others have published, and which decides what a model may
            have seen.
        source: as `read_source` takes it.
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
    """Parse the name of a data set; without NAME it is that of its kind, or of its file or folder.

    An `@` in the path itself is read as that of a split if no `/` follows: end the text in `@` then.
    """
    match = re.fullmatch(r"(?:(?P<name>[^:=/\\]+)=)?(?P<source>[^:]*:.*?)(?:@(?P<split>[^@/\\]*))?", text, re.DOTALL)
    if not match:
        return DataName(name=text, source=text, split=None)
    kind, _, path = match["source"].partition(":")
    name = match["name"] or NAMES.get(kind) or PurePath(path.partition("?")[0]).stem or text
    return DataName(name=name, source=match["source"], split=match["split"] or None)


def domain(name: str) -> str:
    """Return the photographs that a data set consists of, whatever its labels: one name for all who share them."""
    key = re.sub(r"[^a-z0-9+]", "", name.lower())
    return SAME_IMAGES.get(key, key)


def training_domains(provenance: Mapping[str, Any]) -> frozenset[str] | None:
    """Read from a bundle's provenance what its model was trained on, including the models that it was initialised from.

    `trained_on` names data sets. Without it, the `source` of `data` counts, `kind:file`, if its kind is a data set's or
    its file or folder is named as one is.

    Returns:
        Domains; None if the provenance does not say.
    """
    stated = provenance.get("trained_on")
    if stated is not None:
        found = frozenset(domain(str(name)) for name in ([stated] if isinstance(stated, str) else stated))
    else:
        data = provenance.get("data", "")
        kind, _, file = str(data.get("source", "") if isinstance(data, Mapping) else data).rpartition(":")
        named = [domain(kind), domain(PurePath(file.partition("?")[0]).stem)]
        found = frozenset(name for name in named if name in NAMES)
        if not found:
            return None
    before = provenance.get("init")
    if not isinstance(before, Mapping):
        return found
    earlier = training_domains(before.get("provenance") or {})
    return None if earlier is None else found | earlier


def setting_of(trained_on: Iterable[str] | None, data_set: str) -> Setting:
    """Return what scoring a model on a data set shows.

    Args:
        trained_on: domains; None if unknown.
        data_set: its name.
    """
    if trained_on is None:
        return Setting.UNSTATED
    return Setting.OWN_DOMAIN if domain(data_set) in trained_on else Setting.ZERO_SHOT


def caution(provenance: Mapping[str, Any], split: str | None) -> str | None:
    """Return why a score on the model's own data set is better than on faces that had no part in making it.

    Args:
        provenance: of the model's bundle.
        split: that is scored; None for all of them.

    Returns:
        The reason; None if the split had no part according to the provenance.
    """
    recipe, selected = provenance.get("recipe"), provenance.get("selected")
    splits = recipe.get("split") if isinstance(recipe, Mapping) else None
    if split is None:
        return "no test: all splits, including the training data"
    if isinstance(splits, Mapping) and split == splits.get("train"):
        return "no test: trained on this very split"
    if isinstance(selected, Mapping) and split == selected.get("split"):
        return "optimistic: selected on the split it reports"
    return None


def leave_one_out(data_sets: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Plan training on all data sets but one, and testing on that one.

    Data sets of the same photographs leave together: a model trained on FERPlus has seen FER-2013.

    Returns:
        (names to train on, name to test on), one for each data set that leaves some to train on, in the given order.
    """
    names = list(dict.fromkeys(data_sets))
    plan = [(tuple(name for name in names if domain(name) != domain(test)), test) for test in names]
    return [(train, test) for train, test in plan if train]


def subject_folds(subjects: Sequence[str], target: "ArrayLike", num_folds: int = 10) -> "np.ndarray":
    """Split images into folds that share no subject, with labels spread as evenly as subjects allow.

    Subjects are assigned one by one, those of the most images first, each to the fold that leaves the counts of each
    label most even. Deterministic.

    Args:
        subjects: who is shown on each image (B,).
        target: label of each image, whole numbers from 0 (B,).
        num_folds: K, from 2 to the number of subjects; 0: one per subject, in the order of their names.

    Returns:
        Fold of each image, int64 (B,), from 0 to K - 1; none is empty.

    Raises:
        DataError: if there are fewer than two subjects, or than folds.
    """
    import numpy as np

    names, number_B = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    num_subjects, target_B = len(names), np.asarray(target)
    if not 2 <= (num_folds or num_subjects) <= num_subjects:
        raise DataError(f"{num_folds} folds of {num_subjects} subjects. Allowed: 0, or from 2 to their number")
    if num_folds == 0:
        return number_B.astype(np.int64)
    counts_SC = np.zeros((num_subjects, int(target_B.max()) + 1))
    np.add.at(counts_SC, (number_B, target_B), 1)
    shares_SC = counts_SC / np.maximum(counts_SC.sum(axis=0), 1)
    fold_S = np.zeros(num_subjects, dtype=np.int64)
    held_KC = np.zeros((num_folds, counts_SC.shape[1]))
    images_K = np.zeros(num_folds)
    # `number_B` follows the subjects' names, so a stable sort breaks ties by name.
    for assigned, subject in enumerate(np.argsort(-counts_SC.sum(axis=1), kind="stable")):
        # The change of the sum of squares, which is least where this subject's labels are rarest so far.
        cost_K = held_KC @ shares_SC[subject]
        empty_K = images_K == 0
        if empty_K.sum() >= num_subjects - assigned:
            cost_K = np.where(empty_K, cost_K, np.inf)
        chosen = np.lexsort((images_K, np.round(cost_K, 12)))[0]
        fold_S[subject] = chosen
        held_KC[chosen] += shares_SC[subject]
        images_K[chosen] += counts_SC[subject].sum()
    return fold_S[number_B]


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A score over folds: mean, sample standard deviation, and the score of each in order."""

    mean: float
    std: float
    folds: tuple[float, ...]


def spread(scores: Sequence[float]) -> Spread:
    """Summarise the scores of at least two folds."""
    return Spread(statistics.mean(scores), statistics.stdev(scores), tuple(map(float, scores)))
