"""Differences between a group of faces and the rest, and tests of them that compare faces of the same label.

Groups differ in their expressions, and expressions in how hard they are: a group that is photographed smiling is not
treated better for it. So there are two gaps. The raw one is the plain difference between the group and the rest. The
adjusted one compares faces of the same label: the mean over labels of the differences, weighted
n_group n_rest / (n_group + n_rest) (Mantel and Haenszel 1959). Only the adjusted one is tested.

The test asks whether, among faces of one label, group membership tells anything about the outcome. Where images are
independent, membership is permuted within each label, which is exact (the permutation form of the Cochran-Mantel-
Haenszel test): nothing but the number of hits of a group bears on the gap, and that is hypergeometric. Where there are
subjects, the contribution of each whole subject to the gap keeps its size and is given a random sign (a wild bootstrap
of the score; Kline and Santos, Journal of Econometric Methods 2012), so that a subject with many images counts once.

Shape suffixes: B images, G the rest and the group, C classes, A the answers: none, then the C classes, M measures,
J subjects, R permutations.
"""

import math

import numpy as np

from motivnet.labels import Emotion, LabelSet

# To be taken for one of these does harm that to be taken for happy does not.
NEGATIVE = (Emotion.SADNESS, Emotion.FEAR, Emotion.DISGUST, Emotion.ANGER)
# Random signs held at once.
CHUNK = 4_000_000


class Measures:
    """Accuracy and false-positive rates, all as: of the faces of some labels, how many got one of some answers."""

    def __init__(self, labels: LabelSet) -> None:
        """Choose the measures that the labels allow."""
        negative = [labels.names.index(name) for name in NEGATIVE if name in labels.names]
        num_classes = len(labels)
        self.negative = tuple(labels.names[index] for index in negative)
        self.names = ("war", *(f"fpr_{name}" for name in self.negative))
        self.hits_MCA = np.zeros((len(self.names), num_classes, num_classes + 1))
        self.hits_MCA[0, :, 1:] = np.eye(num_classes)
        self.asked_MC = np.ones((len(self.names), num_classes))
        for measure, index in enumerate(negative, start=1):
            self.hits_MCA[measure, :, 1 + index] = 1
            self.hits_MCA[measure, index] = 0
            self.asked_MC[measure, index] = 0

    def count(self, counts_GCA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give hits and faces asked about, both (M, G, C)."""
        hits_MGC = np.einsum("mca,gca->mgc", self.hits_MCA, counts_GCA)
        return hits_MGC, self.asked_MC[:, None] * counts_GCA.sum(axis=-1)

    def rates(self, counts_GCA: np.ndarray) -> np.ndarray:
        """Give the plain measures (M, G); NaN where nothing was asked."""
        hits_MGC, asked_MGC = self.count(counts_GCA)
        return ratio(hits_MGC.sum(axis=-1), asked_MGC.sum(axis=-1))

    def adjusted(self, counts_GCA: np.ndarray) -> np.ndarray:
        """Give the differences among faces of the same label, group less rest (M,); NaN where no label is shared."""
        hits_MGC, asked_MGC = self.count(counts_GCA)
        both_MC = asked_MGC.sum(axis=1)
        weight_MC = np.divide(asked_MGC.prod(axis=1), both_MC, out=np.zeros_like(both_MC), where=both_MC > 0)
        rate_MGC = np.divide(hits_MGC, asked_MGC, out=np.zeros_like(hits_MGC), where=asked_MGC > 0)
        return ratio((weight_MC * (rate_MGC[:, 1] - rate_MGC[:, 0])).sum(axis=-1), weight_MC.sum(axis=-1))

    def gaps(self, counts_GCA: np.ndarray) -> dict[str, float]:
        """Give all differences by name: `raw MEASURE`, `adjusted MEASURE` and `raw uar`."""
        rates_MG = self.rates(counts_GCA)
        raw = dict(zip(self.names, rates_MG[:, 1] - rates_MG[:, 0], strict=True))
        raw["uar"] = uar_gap(counts_GCA)
        adjusted = dict(zip(self.names, self.adjusted(counts_GCA), strict=True))
        return {f"raw {name}": value for name, value in raw.items()} | {
            f"adjusted {name}": value for name, value in adjusted.items()
        }


def uar_gap(counts_GCA: np.ndarray) -> float:
    """Give the difference of mean recall over the labels that both sides have; NaN where they share none."""
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
    hits_MGC, asked_MGC = measures.count(counts_GCA.astype(np.int64))
    p_M = np.ones(len(measures.names))
    for m, (hits_GC, asked_GC) in enumerate(zip(hits_MGC.astype(np.int64), asked_MGC.astype(np.int64), strict=True)):
        hits_C, asked_C = hits_GC.sum(axis=0), asked_GC.sum(axis=0)
        use_C = (hits_C > 0) & (hits_C < asked_C) & (asked_GC > 0).all(axis=0)
        if not use_C.any():
            continue
        drawn_RC = rng.hypergeometric(
            hits_C[use_C],
            (asked_C - hits_C)[use_C],
            asked_GC[1, use_C],
            size=(num_permutations, int(use_C.sum())),
        )
        expected = (asked_GC[1, use_C] * hits_C[use_C] / asked_C[use_C]).sum()
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
    num_classes = measures.asked_MC.shape[1]
    counts_GCA = table(label_B, answer_B, member_B, num_classes)
    hits_MGC, asked_MGC = measures.count(counts_GCA)
    both_MC = asked_MGC.sum(axis=1)
    rate_MC = np.divide(hits_MGC.sum(axis=1), both_MC, out=np.zeros_like(both_MC), where=both_MC > 0)
    num_GC = counts_GCA.sum(axis=-1)
    share_C = num_GC[1] / np.maximum(num_GC.sum(axis=0), 1)
    excess_MB = (measures.hits_MCA[:, label_B, answer_B] - rate_MC[:, label_B]) * measures.asked_MC[:, label_B]
    excess_MB *= member_B - share_C[label_B]
    num_subjects = int(subject_B.max()) + 1
    excess_JM = np.stack([np.bincount(subject_B, row_B, num_subjects) for row_B in excess_MB], axis=1)
    at_once = max(1, CHUNK // num_subjects)
    drawn_RM = np.concatenate(
        [
            (2.0 * rng.integers(2, size=(min(at_once, num_permutations - done), num_subjects)) - 1) @ excess_JM
            for done in range(0, num_permutations, at_once)
        ]
    )
    pairs = zip(excess_JM.sum(axis=0), drawn_RM.T, strict=True)
    return np.array([_p_value(observed, drawn_R) for observed, drawn_R in pairs])


def table(
    label_B: np.ndarray,
    answer_B: np.ndarray,
    member_B: np.ndarray,
    num_classes: int,
    weights_B: np.ndarray | None = None,
) -> np.ndarray:
    """Count images of the rest and of the group by label and answer: float64 (2, C, A)."""
    shape = (2, num_classes, num_classes + 1)
    place_B = np.ravel_multi_index((member_B.astype(np.int64), label_B, answer_B), shape)
    return np.bincount(place_B, weights_B, math.prod(shape)).astype(np.float64).reshape(shape)


def _p_value(observed: float, drawn_R: np.ndarray) -> float:
    """Give the share of draws at least as far from 0, the observed one included; ties may differ in the last digits."""
    as_far = np.abs(drawn_R) >= abs(observed) - 1e-9 * (1 + abs(observed))
    return float((1 + as_far.sum()) / (1 + len(drawn_R)))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
