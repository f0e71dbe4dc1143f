"""Is a model as good for one group of faces as for the others? Gaps, their intervals, and tests that count themselves.

How gaps are measured and tested stands in `gaps.py`. All p-values of one audit, over columns, groups and measures, are
corrected together after Holm, so that an audit of many groups finds nothing by chance alone more often than it says.

Shape suffixes: B images, G the rest and the group, C classes, A the answers: none, then the C classes, M measures.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from motivnet.config import to_plain
from motivnet.errors import DataError
from motivnet.evaluation.gaps import Measures, permutation_p_values, ratio, subject_p_values, table
from motivnet.evaluation.groups import Column
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.evaluation.resampling import Interval, bootstrap, holm
from motivnet.labels import LabelSet

# Fewer subjects than this tell more of themselves than of a group.
MIN_SUBJECTS = 5
# The fewest; more where there are so many tests that a corrected p-value could not become small.
NUM_PERMUTATIONS = 9_999


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """How a group differs from the rest in one measure, group less rest, as a fraction.

    Args:
        measure: `war`, `uar`, or `fpr_EMOTION`: taken for this emotion while labelled otherwise.
        raw: the plain difference; of `uar`, over the labels that both have. None where one side has no such faces.
        raw_interval: of it.
        adjusted: among faces of the same label; None for `uar`, which weighs labels alike already.
        interval: of it.
        p_value: of there being no difference among faces of the same label; None if not tested.
        p_holm: corrected for all tests of the audit.
        found: whether it is significant after the correction.
    """

    measure: str
    raw: float | None
    raw_interval: Interval | None = None
    adjusted: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    p_holm: float | None = None
    found: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """What the model does for one group.

    Args:
        column: that the group is of.
        name: of the group.
        n: its images.
        subjects: its subjects; None if unknown.
        unanswered: images without an answer, which count as errors.
        war: share classified rightly.
        uar: mean recall of its labels.
        recall: label -> share recognised; None for a label that it has no faces of.
        false_positives: negative emotion -> share of the faces labelled otherwise that are taken for it.
        confusion: row is the true label, column the predicted one.
        untested: why its gaps are neither given nor tested; None if they are.
        gaps: to the rest.
    """

    column: str
    name: str
    n: int
    subjects: int | None
    unanswered: int
    war: float
    uar: float
    recall: dict[str, float | None]
    false_positives: dict[str, float | None]
    confusion: list[list[int]]
    untested: str | None = None
    gaps: tuple[Gap, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The groups of all columns.

    Args:
        protocol: what was measured.
        groups: by column, largest first.
        ungrouped: column -> images whose group is not known.
        min_size: images below which a group, or its rest, is not tested.
        alpha: chance of a false alarm in the whole audit.
        level: of the intervals.
        tests: number of tests that p-values are corrected for.
        permutations: of each test.
        by_subject: columns whose images were taken as clusters of subjects.
        seed: of permutations and intervals.
    """

    protocol: Protocol
    groups: tuple[Group, ...]
    ungrouped: dict[str, int]
    min_size: int
    alpha: float
    level: float
    tests: int
    permutations: int
    by_subject: tuple[str, ...]
    seed: int

    @property
    def found(self) -> list[tuple[Group, Gap]]:
        """The significant gaps."""
        return [(group, gap) for group in self.groups for gap in group.gaps if gap.found]

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return to_plain(self)


def audit(
    predictions: Predictions,
    columns: Mapping[str, Column],
    *,
    min_size: int = 50,
    alpha: float = 0.05,
    level: float = 0.95,
    num_permutations: int = NUM_PERMUTATIONS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Audit:
    """Compare each group of each column with all others of the column.

    A column of two groups is one question, and tested once. Where the column is `subject`, images are the units.

    Args:
        predictions: answers of a model.
        columns: name -> group of each row; None: not known, so in no group and in nobody's rest.
        min_size: images below which a group, or its rest, is listed and not tested.
        alpha: chance of a false alarm in the whole audit.
        level: of the intervals.
        num_permutations: of each test, at least.
        num_resamples: for the intervals; 0 leaves them out.
        seed: of permutations and intervals.

    Raises:
        DataError: if there is no column, or one is not as long as the predictions.
    """
    if not columns:
        raise DataError("an audit needs at least one group column")
    for name, column in columns.items():
        if len(column) != len(predictions.target_B):
            raise DataError(f"group column {name!r} of {len(column)} rows, predictions of {len(predictions.target_B)}")
    compared = [
        each for name, column in columns.items() for each in _compare(predictions, name, column, min_size=min_size)
    ]
    measures = Measures(predictions.labels)
    asked = [each for each in compared if each.group.untested is None and each.mirror is None]
    num_tests = len(asked) * len(measures.names)
    # Holm multiplies the smallest p-value by the number of tests: it must be able to stay below alpha.
    num_permutations = max(num_permutations, math.ceil(2 * num_tests / alpha))
    p_values = [
        _test(each, measures, num_permutations, np.random.default_rng([seed, number]))
        for number, each in enumerate(asked)
    ]
    p_holm = holm(np.concatenate(p_values)).reshape(len(asked), -1) if asked else []
    tested = {
        (each.group.column, each.group.name): (p_M, holm_M)
        for each, p_M, holm_M in zip(asked, p_values, p_holm, strict=True)
    }
    groups = []
    for each in compared:
        gaps: tuple[Gap, ...] = ()
        if each.group.untested is None:
            p_M, holm_M = tested[each.group.column, each.group.name if each.mirror is None else each.mirror]
            intervals = _intervals(each, measures, num_resamples, level, seed) if num_resamples else {}
            gaps = tuple(_gaps(each, measures, intervals, p_M, holm_M, alpha))
        groups.append(dataclasses.replace(each.group, gaps=gaps))
    return Audit(
        protocol=predictions.protocol,
        groups=tuple(groups),
        ungrouped={name: sum(value is None for value in column) for name, column in columns.items()},
        min_size=min_size,
        alpha=alpha,
        level=level,
        tests=num_tests,
        permutations=num_permutations,
        by_subject=tuple(dict.fromkeys(each.group.column for each in compared if each.subjects is not None)),
        seed=seed,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """A group and its rest: the images of a column whose group is known."""

    group: Group
    target: np.ndarray
    answers: np.ndarray
    members: np.ndarray
    subjects: Sequence[str | None] | None
    num_classes: int
    # The other group of a column of two, if that comes first.
    mirror: str | None

    @property
    def counts(self) -> np.ndarray:
        return table(self.target, self.answers, self.members, self.num_classes)


def _compare(predictions: Predictions, name: str, column: Column, *, min_size: int) -> list[_Comparison]:
    known = np.array([row for row, value in enumerate(column) if value is not None], np.int64)
    every = predictions.manifest.table["subject"].to_pylist()
    subjects = None
    if name != "subject" and any(subject is not None for subject in every):
        subjects = [every[row] for row in known]
    label_B, answer_B = predictions.target_B[known], predictions.preds_B[known] + 1
    values = np.array([column[row] for row in known], dtype=str)
    found, value_B, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    compared = []
    for place in order:
        value, member_B = str(found[place]), value_B == place
        num_subjects = None
        if subjects is not None:
            num_subjects = tuple(_num_subjects(subjects, side_B) for side_B in (member_B, ~member_B))
        group = _describe(predictions.labels, name, value, label_B[member_B], answer_B[member_B])
        group = dataclasses.replace(
            group,
            subjects=None if num_subjects is None else num_subjects[0],
            untested=_too_small(group.n, len(known) - group.n, num_subjects, min_size),
        )
        compared.append(
            _Comparison(
                group=group,
                target=label_B,
                answers=answer_B,
                members=member_B,
                subjects=subjects,
                num_classes=len(predictions.labels),
                mirror=str(found[order[0]]) if len(order) == 2 and place == order[1] else None,
            )
        )
    return compared


def _num_subjects(subjects: Sequence[str | None], side_B: np.ndarray) -> int:
    """Count subjects; an image of nobody in particular is one by itself."""
    ours = [subject for subject, inside in zip(subjects, side_B, strict=True) if inside]
    return len({subject for subject in ours if subject is not None}) + sum(subject is None for subject in ours)


def _too_small(n: int, rest: int, num_subjects: tuple[int, ...] | None, min_size: int) -> str | None:
    if rest == 0:
        return "the only group: there is nothing to compare it with"
    if n < min_size:
        return f"{n} images, fewer than {min_size}"
    if rest < min_size:
        return f"only {rest} images in all other groups, fewer than {min_size}"
    if num_subjects is not None and min(num_subjects) < MIN_SUBJECTS:
        return f"{num_subjects[0]} subjects against {num_subjects[1]}; at least {MIN_SUBJECTS} are needed on each side"
    return None


def _describe(labels: LabelSet, column: str, name: str, label_B: np.ndarray, answer_B: np.ndarray) -> Group:
    counts_CA = table(label_B, answer_B, np.ones(len(label_B), np.bool_), len(labels))[1]
    num_C, right_C = counts_CA.sum(axis=1), np.diagonal(counts_CA[:, 1:])
    recall_C = ratio(right_C, num_C)
    measures = Measures(labels)
    rates_M = measures.rates(counts_CA[None])[:, 0]
    return Group(
        column=column,
        name=name,
        n=len(label_B),
        subjects=None,
        unanswered=int(counts_CA[:, 0].sum()),
        war=float(right_C.sum() / num_C.sum()),
        uar=float(np.nanmean(recall_C)),
        recall=dict(zip(labels, map(_number, recall_C), strict=True)),
        false_positives=dict(zip(measures.negative, map(_number, rates_M[1:]), strict=True)),
        confusion=counts_CA[:, 1:].astype(np.int64).tolist(),
    )


def _test(each: _Comparison, measures: Measures, num_permutations: int, rng: np.random.Generator) -> np.ndarray:
    if each.subjects is None:
        return permutation_p_values(measures, each.counts, num_permutations=num_permutations, rng=rng)
    numbers: dict[Any, int] = {}
    keys = (("alone", row) if subject is None else subject for row, subject in enumerate(each.subjects))
    subject_B = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    return subject_p_values(
        measures,
        each.target,
        each.answers,
        each.members,
        subject_B,
        num_permutations=num_permutations,
        rng=rng,
    )


def _intervals(
    each: _Comparison, measures: Measures, num_resamples: int, level: float, seed: int
) -> dict[str, Interval]:
    def score(weights_B: np.ndarray) -> dict[str, float]:
        return measures.gaps(table(each.target, each.answers, each.members, each.num_classes, weights_B))

    units = len(each.target) if each.subjects is None else each.subjects
    return bootstrap(score, units, num_resamples=num_resamples, level=level, seed=seed)


def _gaps(
    each: _Comparison,
    measures: Measures,
    intervals: Mapping[str, Interval],
    p_M: np.ndarray,
    holm_M: np.ndarray,
    alpha: float,
) -> list[Gap]:
    values = measures.gaps(each.counts)

    def interval(name: str) -> Interval | None:
        found = intervals.get(name)
        return None if found is None or math.isnan(found.low) else found

    gaps = [
        Gap(
            measure=name,
            raw=_number(values[f"raw {name}"]),
            raw_interval=interval(f"raw {name}"),
            adjusted=_number(values[f"adjusted {name}"]),
            interval=interval(f"adjusted {name}"),
            p_value=float(p_value),
            p_holm=float(corrected),
            found=bool(corrected <= alpha),
        )
        for name, p_value, corrected in zip(measures.names, p_M, holm_M, strict=True)
    ]
    gaps.insert(1, Gap(measure="uar", raw=_number(values["raw uar"]), raw_interval=interval("raw uar")))
    return gaps


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
