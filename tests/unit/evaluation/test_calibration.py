import numpy as np
import pytest

from motivnet.checkpoints.bundle import Calibration
from motivnet.errors import CheckpointError, DataError
from motivnet.evaluation import calibration
from motivnet.evaluation.calibration import (
    apply_calibration,
    fit_calibration,
    threshold_for_accuracy,
)
from motivnet.evaluation.probabilities import ProbabilityScores

C = 7


def heated(probs, temperature):
    return apply_calibration(probs, Calibration(temperature=temperature))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def calibrated_case(seed, num_images=4000):
    """Logits that are calibrated by construction: the truth is drawn from their own probabilities."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_images, C))
    drawn = (rng.random((num_images, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(drawn, C - 1)


@pytest.mark.parametrize("planted", [0.2, 0.7, 1.0, 2.5, 8.0])
def test_a_planted_temperature_is_found_and_its_error_mended(planted):
    logits, target = calibrated_case(0)
    probs = softmax(logits / planted)
    # The probabilities went through 1 / planted, so that the mend is its inverse.
    temperature = fit_calibration(probs, target).temperature
    assert temperature == pytest.approx(1 / planted, rel=0.05)
    mended = heated(probs, temperature)
    np.testing.assert_allclose(mended, softmax(logits), atol=0.02)
    assert ProbabilityScores(mended, target).ece() < 0.02
    if planted != 1:
        assert ProbabilityScores(mended, target).ece() < ProbabilityScores(probs, target).ece()
    assert ProbabilityScores(mended, target).log_loss() <= ProbabilityScores(probs, target).log_loss() + 1e-9


def test_the_fit_is_the_minimum_over_a_grid_and_always_the_same():
    logits, target = calibrated_case(1, num_images=300)
    probs = softmax(3 * logits)
    temperature = fit_calibration(probs, target).temperature
    assert temperature == fit_calibration(probs, target).temperature
    losses = {t: ProbabilityScores(heated(probs, t), target).log_loss() for t in np.geomspace(0.06, 19, 200)}
    assert ProbabilityScores(heated(probs, temperature), target).log_loss() <= min(losses.values())
    assert temperature == pytest.approx(min(losses, key=losses.__getitem__), rel=0.03)


def test_the_fit_agrees_with_torch_on_the_logits():
    torch = pytest.importorskip("torch")
    logits, target = calibrated_case(2, num_images=500)
    logits = 1.8 * logits
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_temperature], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        scaled = torch.from_numpy(logits) / log_temperature.exp()
        loss = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(target))
        loss.backward()
        return loss

    optimiser.step(closure)
    assert fit_calibration(softmax(logits), target).temperature == pytest.approx(log_temperature.exp().item(), rel=1e-4)


def test_probabilities_of_nought_do_not_break_the_fit():
    logits, target = calibrated_case(3, num_images=500)
    probs = softmax(60 * logits.astype(np.float32))
    assert (probs == 0).any()
    assert (probs[np.arange(500), target] == 0).any()
    temperature = fit_calibration(probs, target).temperature
    assert 1 < temperature <= 20
    np.testing.assert_allclose(heated(probs, temperature).sum(axis=1), 1)


def test_without_a_minimum_the_fit_is_high_or_low_and_within_bounds():
    assert fit_calibration([[0.9, 0.1], [0.2, 0.8]], [1, 0]).temperature == pytest.approx(20, rel=1e-3)
    assert 0.05 <= fit_calibration([[0.6, 0.4], [0.45, 0.55]], [0, 1]).temperature < 0.1
    assert 0.05 <= fit_calibration([[0.999, 0.001]] * 3, [0, 0, 0]).temperature < 0.2


def test_a_temperature_is_a_division_of_the_logits():
    logits, _ = calibrated_case(4, num_images=50)
    for temperature in (0.3, 1.0, 4.0):
        np.testing.assert_allclose(heated(softmax(logits), temperature), softmax(logits / temperature))
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(heated(probs, 1.0), probs, atol=1e-12)
    np.testing.assert_allclose(heated(probs, 0.5), probs, atol=1e-12)


def test_a_temperature_keeps_the_order_of_the_classes():
    probs = softmax(calibrated_case(5, num_images=100)[0])
    for temperature in (0.1, 3.0, 20.0):
        np.testing.assert_array_equal(heated(probs, temperature).argsort(), probs.argsort())


@pytest.mark.parametrize("number", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("name", ["temperature", "exponent"])
def test_a_calibration_that_cannot_be_is_refused(name, number):
    with pytest.raises(CheckpointError, match=f"{name} {number} must be positive and finite"):
        Calibration(**{name: number})


def test_a_planted_exponent_is_found_and_taken_back():
    """Answers that are too sure where they are unsure, and not sure enough where they are sure."""
    rng = np.random.default_rng(5)
    planted = Calibration(temperature=1.4, exponent=1.5)
    truth = softmax(rng.normal(size=(20_000, 5)) * 2)
    target = (truth.cumsum(axis=1) < rng.random((len(truth), 1))).sum(axis=1)
    probs = apply_calibration(truth, planted.inverse())
    found = fit_calibration(probs, target, exponent=True)
    assert found.exponent == pytest.approx(planted.exponent, rel=0.05)
    assert found.temperature == pytest.approx(planted.temperature, rel=0.08)
    mended, alone = apply_calibration(probs, found), apply_calibration(probs, fit_calibration(probs, target))
    assert ProbabilityScores(mended, target).ece() < 0.01 < ProbabilityScores(alone, target).ece()
    np.testing.assert_allclose(apply_calibration(apply_calibration(probs, found), found.inverse()), probs, atol=1e-9)
    np.testing.assert_array_equal(mended.argsort(), probs.argsort())


def sure(*confidences):
    """Two-class probabilities with these highest values, all for class 0."""
    return np.stack([np.array(confidences), 1 - np.array(confidences)], axis=1)


def test_the_threshold_is_the_smallest_that_does():
    probs, target = sure(0.95, 0.9, 0.8, 0.7, 0.6), [0, 0, 1, 0, 1]
    assert threshold_for_accuracy(probs, target, 1.0) == 0.9
    # At 0.8 two of three are right, but at 0.7 three of four, so that the dip between does not matter.
    assert threshold_for_accuracy(probs, target, 0.75) == 0.7
    assert threshold_for_accuracy(probs, target, 0.76) == 0.9
    assert threshold_for_accuracy(probs, target, 0.6) == 0.0


@pytest.mark.parametrize("wanted", [0.7, 0.8, 0.9, 0.95])
def test_the_threshold_reaches_the_accuracy_and_no_smaller_one_does(wanted):
    logits, target = calibrated_case(7, num_images=800)
    probs = softmax(logits)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == target
    threshold = threshold_for_accuracy(probs, target, wanted)
    assert correct[confidence >= threshold].mean() >= wanted
    for smaller in confidence[confidence < threshold]:
        assert correct[confidence >= smaller].mean() < wanted


def test_a_tie_is_answered_as_a_whole():
    probs = sure(0.9, 0.8, 0.8, 0.6)
    assert threshold_for_accuracy(probs, [0, 0, 1, 1], 1.0) == 0.9
    assert threshold_for_accuracy(probs, [0, 0, 1, 1], 0.6) == 0.8


def test_an_accuracy_out_of_reach_names_the_best():
    with pytest.raises(
        DataError, match=r"0.9 is reached at no threshold. The best is 0.6667, on the 3 of 4 images .*0.7"
    ):
        threshold_for_accuracy(sure(0.9, 0.8, 0.7, 0.6), [1, 0, 0, 1], 0.9)


@pytest.mark.parametrize("accuracy", [0.0, -0.5, 1.1, 95, np.nan])
def test_an_accuracy_that_cannot_be_is_refused(accuracy):
    with pytest.raises(DataError, match="accuracy must be above 0 and at most 1"):
        threshold_for_accuracy([[0.5, 0.5]], [0], accuracy)


@pytest.mark.parametrize(
    "function", [fit_calibration, lambda probs, target: threshold_for_accuracy(probs, target, 0.9)]
)
@pytest.mark.parametrize(
    ("probs", "target", "message"),
    [
        ([[0.5, 0.5], [0.5, np.nan]], [0, 1], "the first is row 1"),
        ([[0.5, 0.5], [2.0, -3.0]], [0, 1], r"probs\[1\] is \[2.0, -3.0\]"),
        ([[0.5, 0.5]], [0, 1], "probs of 1 images, target of 2"),
        ([[0.5, 0.5]], [2], r"target\[0\] is 2"),
        (np.empty((0, 2)), np.empty(0, np.int64), "at least one of each"),
    ],
)
def test_what_are_no_probabilities_is_refused(function, probs, target, message):
    with pytest.raises(DataError, match=message):
        function(probs, target)


def test_the_smallest_probability_is_below_every_one_that_float32_knows():
    assert np.float32(calibration.SMALLEST_PROB) > 0
    assert np.float32(calibration.SMALLEST_PROB / 2.1) == 0
