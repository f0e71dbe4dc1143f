"""Audit of fairness: gaps between a group of faces and the rest, their intervals, and tests corrected for their number.

Groups differ in their expressions, and expressions in difficulty: a group that is photographed smiling is not treated
better for it. So there are two gaps. The raw one is the plain difference between the group and the rest. The adjusted
one compares faces of the same label: the mean over labels of the differences, weighted
n_group n_rest / (n_group + n_rest) (Mantel and Haenszel 1959). Only the adjusted one is tested.

The null hypothesis is that among faces of one label the outcome is independent of group membership. Where images are
independent, membership is permuted within each label, which is exact (the permutation form of the Cochran-Mantel-
Haenszel test): nothing but the number of hits of a group bears on the gap, and that is hypergeometric. Where there are
subjects, the contribution of each whole subject to the gap keeps its size and is given a random sign (a wild bootstrap
of the score; Kline and Santos, Journal of Econometric Methods 2012), so that a subject with many images counts once.

All p-values of one audit, over columns, groups and measures, are corrected together after Holm.

Shape suffixes: B images, G the rest and the group, C classes, A answers: none, then the C classes, M measures,
J subjects, R permutations.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.checkpoints.bundle import is_bundle, open_bundle
from motivnet.config import replace, to_plain
from motivnet.data.clean import picture_keys, unfitted
from motivnet.data.manifest import Manifest
from motivnet.data.sources.named import split_off
from motivnet.errors import DataError, require
from motivnet.evaluation.evaluate import prediction_source
from motivnet.evaluation.evaluation_config import AuditConfig
from motivnet.evaluation.groups import Column, group_columns, read_together
from motivnet.evaluation.metrics import Weights, ratio
from motivnet.evaluation.predictions import Predictions, Protocol, Track, no_progress
from motivnet.evaluation.resampling import Interval, bootstrap, holm, number_units
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.tables import check_folder
from motivnet.labels import Emotion, LabelSet
from motivnet.storage import atomic_folder

# The data come last: where they are, all is.
FILES = ("audit.md", "audit.html", "audit.json")
# Groups of fewer subjects are not tested.
MIN_SUBJECTS = 5
# Family-wise error rate of an audit, and confidence level of its intervals.
ALPHA, LEVEL = 0.05, 0.95
# The fewest; more where there are so many tests that a corrected p-value could not become small.
NUM_PERMUTATIONS = 9_999
# Being predicted as one of these does harm that being predicted as happy does not.
NEGATIVE = (Emotion.SADNESS, Emotion.FEAR, Emotion.DISGUST, Emotion.ANGER)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The difference between a group and the rest in one measure, group minus rest, as a fraction.

    Args:
        measure: `war`, `uar`, or `fpr_EMOTION`: rate of false positives of this emotion.
        raw: the plain difference; of `uar`, over the labels that both have. None where one side has no such faces.
        raw_interval: of it.
        adjusted: among faces of the same label; None for `uar`, which weights labels equally already.
        interval: of it.
        p_value: of no difference among faces of the same label; None if not tested.
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
    """The scores of one group.

    Args:
        column: that the group is of.
        name: of the group.
        n: its images.
        subjects: its subjects; None if unknown.
        unanswered: images without an answer, which count as errors.
        war: accuracy.
        uar: mean recall of its labels.
        recall: label -> recall; None for a label that it has no faces of.
        false_positives: negative emotion -> share of the faces of other labels that are predicted as it.
        confusion: a row per true label, a column per predicted one.
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
        alpha: family-wise error rate of the audit.
        level: of the intervals.
        tests: number of tests that p-values are corrected for.
        permutations: of each test.
        by_subject: columns whose images were taken as clusters of subjects.
        seed: of permutations and intervals.
        caution: why its scores are too good, if it is known to be.
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
    caution: str | None = None

    @property
    def found(self) -> list[tuple[Group, Gap]]:
        """The significant gaps."""
        return [(group, gap) for group in self.groups for gap in group.gaps if gap.found]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as in `audit.json`."""
        return to_plain(self)

    def write(self, out: Path) -> None:
        """Write FILES to a folder, in place of those that it may hold; OutputError if they cannot be written."""
        from motivnet.report.audit_report import audit_files

        with atomic_folder(out, merge=True, last=FILES[-1]) as folder:
            for name, text in audit_files(self).items():
                (folder / name).write_text(text, encoding="utf-8")


def audit(
    model: str | Path | None,
    data: str | Sequence[str],
    settings: AuditConfig | None = None,
    *,
    by: Sequence[str],
    out: Path | None = None,
    overwrite: bool = False,
    config: PredictorConfig | None = None,
    track: Track = no_progress,
    **options: Any,
) -> Audit:
    """Audit a model for gaps between groups of faces; what `motivnet audit` does.

    Args:
        model: as for `evaluate`, as are `data`, `config` and `track`.
        data: `KIND:PATH` or `KIND:PATH@SPLIT`, or several: see `read_together`.
        settings: split, detection and so on; None takes the defaults.
        by: names of the columns that divide the images into groups; see `group_columns`.
        out: folder to write FILES to; None writes nothing.
        overwrite: replace FILES in `out`.
        config: options of the predictor.
        track: shows progress.
        options: fields of `AuditConfig`, in place of those of `settings`.

    Raises:
        MotivNetError: as for `evaluate`; also DataError if there is no such column.
    """
    if out is not None:
        check_folder(out, FILES, overwrite=overwrite)
    settings = replace(settings or AuditConfig(), options)
    predict = prediction_source(model, settings, config=config, track=track)
    names, split = [], settings.split
    for each in [data] if isinstance(data, str) else data:
        name, split = split_off(each, split)
        names.append(name)
    whole = read_together(names)
    manifest = whole.split(split) if split else whole
    # Before the model runs: a mistake in a column is found sooner.
    columns = group_columns(manifest, by, whole=whole, table=settings.groups_csv)
    answers = predict(manifest, data=" and ".join(names), split=split)
    # The answers are without the images of labels that the model does not know.
    kept = [row for row, label in enumerate(manifest.table["label"].to_pylist()) if label in answers.labels.names]
    columns = {name: [column[row] for row in kept] for name, column in columns.items()}
    found = compare_groups(answers, columns, min_size=settings.min_size, seed=settings.seed, track=track)
    found = dataclasses.replace(found, caution=_caution(model, manifest))
    if out is not None:
        found.write(out)
    return found


def _caution(model: str | Path | None, manifest: Manifest) -> str | None:
    """Return a warning if a bundle was trained on some of the images, by the pictures that its provenance names."""
    if model is None or not is_bundle(model):
        return None
    keys, _ = picture_keys(manifest, unreadable=True)
    if unfitted(open_bundle(model).config.provenance, manifest.table["subject"].to_pylist(), keys).all():
        return None
    return f"{model} was trained on such images, which hides gaps. Take a split that had no part in its training."


def compare_groups(
    predictions: Predictions,
    columns: Mapping[str, Column],
    *,
    min_size: int = 50,
    num_permutations: int = NUM_PERMUTATIONS,
    num_resamples: int = 1000,
    seed: int = 0,
    track: Track = no_progress,
) -> Audit:
    """Compare each group of each column with all others of the column.

    A column of two groups is one question, and tested once. Where the column is `subject`, images are the units.

    Args:
        predictions: of a model.
        columns: name -> group of each row; None: not known, so neither in a group nor in the rest.
        min_size: images below which a group, or its rest, is listed and not tested.
        num_permutations: of each test, at least.
        num_resamples: for the intervals; 0 leaves them out.
        seed: of permutations and intervals.
        track: shows progress.

    Raises:
        DataError: if there is no column.
    """
    require(columns, "an audit needs at least one group column", DataError)
    measures = Measures(predictions.labels)
    compared = [
        each for name, column in columns.items() for each in _compare(predictions, measures, name, column, min_size)
    ]
    to_test = [each for each in compared if each.group.untested is None and each.mirror is None]
    num_tests = len(to_test) * len(measures.names)
    # Holm multiplies the smallest p-value by the number of tests: it must be able to stay below ALPHA.
    num_permutations = max(num_permutations, math.ceil(2 * num_tests / ALPHA))
    p_values = [
        _test(each, measures, num_permutations, np.random.default_rng([seed, number]))
        for number, each in enumerate(track(to_test, total=len(to_test), what="tests"))
    ]
    p_holm = holm(np.ravel(p_values)).reshape(np.shape(p_values))
    tested = {(each.group.column, each.group.name): pair for each, *pair in zip(to_test, p_values, p_holm, strict=True)}

    def with_gaps(each: _Comparison) -> Group:
        if each.group.untested is not None:
            return each.group
        pair = tested[each.group.column, each.mirror or each.group.name]
        return dataclasses.replace(each.group, gaps=_gaps(each, measures, pair, num_resamples, seed))

    return Audit(
        protocol=predictions.protocol,
        groups=tuple(map(with_gaps, track(compared, total=len(compared), what="intervals of groups"))),
        ungrouped={name: sum(value is None for value in column) for name, column in columns.items()},
        min_size=min_size,
        alpha=ALPHA,
        level=LEVEL,
        tests=num_tests,
        permutations=num_permutations,
        by_subject=tuple(dict.fromkeys(each.group.column for each in compared if each.subject_B is not None)),
        seed=seed,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """A group and its rest: the images of a column whose group is known.

    Args:
        group: without its gaps.
        label_B: true class of each image, from 0.
        answer_B: 0 for no answer, else 1 + the predicted class.
        member_B: whether an image is of the group, bool.
        subject_B: number of the subject, from 0 without gaps; None where images are independent.
        mirror: name of the other group of a column of two, if that comes first.
    """

    group: Group
    label_B: np.ndarray
    answer_B: np.ndarray
    member_B: np.ndarray
    subject_B: np.ndarray | None
    mirror: str | None

    def counts(self, weights_B: np.ndarray | None = None) -> np.ndarray:
        return table(self.label_B, self.answer_B, self.member_B, len(self.group.recall), weights_B)


def _compare(
    predictions: Predictions, measures: "Measures", name: str, column: Column, min_size: int
) -> Iterator[_Comparison]:
    known = np.array([row for row, value in enumerate(column) if value is not None], np.int64)
    subjects = predictions.manifest.table["subject"].to_pylist()
    has_subjects = name != "subject" and any(subject is not None for subject in subjects)
    subject_B = number_units([subjects[row] for row in known]) if has_subjects else None
    label_B, answer_B = predictions.target_B[known], predictions.preds_B[known] + 1
    values = np.array([column[row] for row in known], dtype=str)
    found, value_B, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    for place in order:
        member_B = value_B == place
        sides = [] if subject_B is None else [subject_B[member_B], subject_B[~member_B]]
        num_subjects = [len(np.unique(side)) for side in sides]
        group = Group(
            column=name,
            name=str(found[place]),
            subjects=num_subjects[0] if sides else None,
            untested=_too_small(len(known), int(sizes[place]), num_subjects, min_size),
            **_describe(predictions.labels, measures, label_B[member_B], answer_B[member_B]),
        )
        mirror = str(found[order[0]]) if len(order) == 2 and place == order[1] else None
        yield _Comparison(group, label_B, answer_B, member_B, subject_B, mirror)


def _too_small(total: int, n: int, num_subjects: Sequence[int], min_size: int) -> str | None:
    if n == total:
        return "the only group: there is nothing to compare it with"
    if n < min_size:
        return f"{n} images, fewer than {min_size}"
    if total - n < min_size:
        return f"only {total - n} images in all other groups, fewer than {min_size}"
    if num_subjects and min(num_subjects) < MIN_SUBJECTS:
        return f"{num_subjects[0]} subjects against {num_subjects[1]}; at least {MIN_SUBJECTS} are needed on each side"
    return None


def _describe(labels: LabelSet, measures: "Measures", label_B: np.ndarray, answer_B: np.ndarray) -> dict[str, Any]:
    counts_CA = table(label_B, answer_B, np.ones(len(label_B), np.bool_), len(labels))[1]
    num_C, right_C = counts_CA.sum(axis=1), np.diagonal(counts_CA[:, 1:])
    recall_C, rates_M = ratio(right_C, num_C), measures.rates(counts_CA[None])[:, 0]
    return {
        "n": len(label_B),
        "unanswered": int(counts_CA[:, 0].sum()),
        "war": float(right_C.sum() / num_C.sum()),
        "uar": float(np.nanmean(recall_C)),
        "recall": dict(zip(labels, map(_number, recall_C), strict=True)),
        "false_positives": dict(zip(measures.negative, map(_number, rates_M[1:]), strict=True)),
        "confusion": counts_CA[:, 1:].astype(np.int64).tolist(),
    }


def _test(each: _Comparison, measures: "Measures", num_permutations: int, rng: np.random.Generator) -> np.ndarray:
    if each.subject_B is None:
        return permutation_p_values(measures, each.counts(), num_permutations=num_permutations, rng=rng)
    images = each.label_B, each.answer_B, each.member_B, each.subject_B
    return subject_p_values(measures, *images, num_permutations=num_permutations, rng=rng)


def _gaps(
    each: _Comparison, measures: "Measures", p_values: Sequence[np.ndarray], num_resamples: int, seed: int
) -> tuple[Gap, ...]:
    """Return all gaps of a group; `p_values`: of each measure, and corrected."""
    values = {name: _number(value) for name, value in measures.gaps(each.counts()).items()}
    known: dict[str, Interval] = {}
    if num_resamples:
        units = len(each.label_B) if each.subject_B is None else each.subject_B
        resampling = {"num_resamples": num_resamples, "level": LEVEL, "seed": seed}
        found = bootstrap(lambda weights_B: measures.gaps(each.counts(weights_B)), units, **resampling)
        known = {name: interval for name, interval in found.items() if not math.isnan(interval.low)}
    war, *others = (
        Gap(
            measure=name,
            raw=values[f"raw {name}"],
            raw_interval=known.get(f"raw {name}"),
            adjusted=values[f"adjusted {name}"],
            interval=known.get(f"adjusted {name}"),
            p_value=float(p_value),
            p_holm=float(corrected),
            found=bool(corrected <= ALPHA),
        )
        for name, p_value, corrected in zip(measures.names, *p_values, strict=True)
    )
    return (war, Gap(measure="uar", raw=values["raw uar"], raw_interval=known.get("raw uar")), *others)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


class Measures:
    """Accuracy and rates of false positives, each the share of faces of some labels that got one of some answers."""

    def __init__(self, labels: LabelSet) -> None:
        """Set up the measures of a label set."""
        negative = [labels.names.index(name) for name in NEGATIVE if name in labels.names]
        num_classes = len(labels)
        self.negative = tuple(labels.names[index] for index in negative)
        self.names = ("war", *(f"fpr_{name}" for name in self.negative))
        self.hits_MCA = np.zeros((len(self.names), num_classes, num_classes + 1))
        self.hits_MCA[0, :, 1:] = np.eye(num_classes)
        self.eligible_MC = np.ones((len(self.names), num_classes))
        for measure, index in enumerate(negative, start=1):
            self.hits_MCA[measure, :, 1 + index] = 1
            self.hits_MCA[measure, index] = 0
            self.eligible_MC[measure, index] = 0

    def count(self, counts_GCA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return hits and faces that count, both (M, G, C)."""
        hits_MGC = np.einsum("mca,gca->mgc", self.hits_MCA, counts_GCA)
        return hits_MGC, self.eligible_MC[:, None] * counts_GCA.sum(axis=-1)

    def rates(self, counts_GCA: np.ndarray) -> np.ndarray:
        """Return the plain measures (M, G); NaN where no face counts."""
        hits_MGC, eligible_MGC = self.count(counts_GCA)
        return ratio(hits_MGC.sum(axis=-1), eligible_MGC.sum(axis=-1))

    def adjusted(self, counts_GCA: np.ndarray) -> np.ndarray:
        """Return the differences among faces of the same label, group minus rest (M,); NaN where no label is shared."""
        hits_MGC, eligible_MGC = self.count(counts_GCA)
        weight_MC = np.nan_to_num(ratio(eligible_MGC.prod(axis=1), eligible_MGC.sum(axis=1)))
        rate_MGC = np.nan_to_num(ratio(hits_MGC, eligible_MGC))
        return ratio((weight_MC * (rate_MGC[:, 1] - rate_MGC[:, 0])).sum(axis=-1), weight_MC.sum(axis=-1))

    def gaps(self, counts_GCA: np.ndarray) -> dict[str, float]:
        """Return all differences by name: `raw MEASURE`, `adjusted MEASURE` and `raw uar`."""
        rest_M, group_M = self.rates(counts_GCA).T
        names = [f"{kind} {name}" for kind in ("raw", "adjusted") for name in self.names]
        values = np.concatenate([group_M - rest_M, self.adjusted(counts_GCA)])
        return dict(zip(names, values, strict=True)) | {"raw uar": uar_gap(counts_GCA)}


def uar_gap(counts_GCA: np.ndarray) -> float:
    """Return the difference of mean recall over the labels that both sides have; NaN where they share none."""
    num_GC = counts_GCA.sum(axis=-1)
    shared_C = (num_GC > 0).all(axis=0)
    if not shared_C.any():
        return math.nan
    right_GC = np.diagonal(counts_GCA[:, :, 1:], axis1=1, axis2=2)
    rest, group = (right_GC[:, shared_C] / num_GC[:, shared_C]).mean(axis=1)
    return float(group - rest)


def permutation_p_values(
    measures: Measures, counts_GCA: np.ndarray, *, num_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Test each measure by permuting membership within labels: two-sided p-values (M,).

    Args:
        measures: to test.
        counts_GCA: images of the rest and of the group, by label and answer.
        num_permutations: R; p-values are at least 1 / (R + 1).
        rng: for the draws.
    """
    hits_MGC, eligible_MGC = (number_MGC.astype(np.int64) for number_MGC in measures.count(counts_GCA))
    p_M = np.ones(len(measures.names))
    for m, (hits_GC, eligible_GC) in enumerate(zip(hits_MGC, eligible_MGC, strict=True)):
        hits_C, eligible_C = hits_GC.sum(axis=0), eligible_GC.sum(axis=0)
        use_C = (hits_C > 0) & (hits_C < eligible_C) & (eligible_GC > 0).all(axis=0)
        if not use_C.any():
            continue
        hits_C, eligible_C, group_C = hits_C[use_C], eligible_C[use_C], eligible_GC[1, use_C]
        drawn_RC = rng.hypergeometric(hits_C, eligible_C - hits_C, group_C, size=(num_permutations, len(hits_C)))
        expected = (group_C * hits_C / eligible_C).sum()
        p_M[m] = _p_value(hits_GC[1, use_C].sum() - expected, drawn_RC.sum(axis=1) - expected)
    return p_M


def subject_p_values(
    measures: Measures,
    label_B: np.ndarray,
    answer_B: np.ndarray,
    member_B: np.ndarray,
    subject_B: np.ndarray,
    *,
    num_permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Test each measure by random signs of whole subjects: two-sided p-values (M,).

    Args:
        measures: to test.
        label_B: true class of each image, from 0.
        answer_B: 0 for no answer, else 1 + the predicted class.
        member_B: whether an image is of the group, bool.
        subject_B: number of the subject, from 0 without gaps.
        num_permutations: R; p-values are at least 1 / (R + 1).
        rng: for the signs.
    """
    num_classes = measures.eligible_MC.shape[1]
    counts_GCA = table(label_B, answer_B, member_B, num_classes)
    hits_MGC, eligible_MGC = measures.count(counts_GCA)
    rate_MC = np.nan_to_num(ratio(hits_MGC.sum(axis=1), eligible_MGC.sum(axis=1)))
    num_GC = counts_GCA.sum(axis=-1)
    share_C = num_GC[1] / np.maximum(num_GC.sum(axis=0), 1)
    excess_MB = (measures.hits_MCA[:, label_B, answer_B] - rate_MC[:, label_B]) * measures.eligible_MC[:, label_B]
    excess_MB *= member_B - share_C[label_B]
    num_subjects = int(subject_B.max()) + 1
    excess_JM = np.stack([np.bincount(subject_B, row_B, num_subjects) for row_B in excess_MB], axis=1)
    # One after the other, since all signs together may not fit into memory.
    signs = (2.0 * rng.integers(2, size=num_subjects) - 1 for _ in range(num_permutations))
    drawn_RM = np.array([sign_J @ excess_JM for sign_J in signs])
    pairs = zip(excess_JM.sum(axis=0), drawn_RM.T, strict=True)
    return np.array([_p_value(observed, drawn_R) for observed, drawn_R in pairs])


def table(
    label_B: np.ndarray, answer_B: np.ndarray, member_B: np.ndarray, num_classes: int, weights: Weights = None
) -> np.ndarray:
    """Count images of the rest and the group by label and answer, float64 (2, C, A); arguments as in `_Comparison`."""
    shape = (2, num_classes, num_classes + 1)
    place_B = np.ravel_multi_index((member_B.astype(np.int64), label_B, answer_B), shape)
    return np.bincount(place_B, weights, math.prod(shape)).astype(np.float64).reshape(shape)


def _p_value(observed: float, drawn_R: np.ndarray) -> float:
    """Return the share of draws at least as far from 0, the observed one included."""
    # Ties may differ in the last digits.
    as_far = np.abs(drawn_R) >= abs(observed) - 1e-9 * (1 + abs(observed))
    return float((1 + as_far.sum()) / (1 + len(drawn_R)))
