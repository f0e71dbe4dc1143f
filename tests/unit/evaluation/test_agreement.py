"""Agreement with human coders: published examples, and codes counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from motivnet.errors import ConfigError, DataError
from motivnet.evaluation.evaluation_config import AgreementConfig

pd = pytest.importorskip("pandas")

from motivnet.evaluation.agreement import agree, alpha, cohen_kappa, fleiss_kappa, icc  # noqa: E402

LABELS = ("neutral", "happiness", "sadness")


def counts_of(ratings: list[list[int | None]], num_classes: int) -> np.ndarray:
    """Count the codes of each unit; ratings are one list per rater."""
    units = zip(*ratings, strict=True)
    return np.array([[unit.count(code) for code in range(num_classes)] for unit in units])


def test_krippendorffs_example():
    # Krippendorff, Computing Krippendorff's alpha-reliability, 2011, section C: four observers, nominal data.
    n = None
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    assert alpha(counts_of(ratings, 6), np.ones(12)) == pytest.approx(0.743, abs=5e-4)


def test_fleiss_example():
    # Ten subjects by fourteen raters into five categories: https://en.wikipedia.org/wiki/Fleiss%27_kappa
    counts = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    assert fleiss_kappa(np.array(counts), np.ones(10)) == pytest.approx(0.210, abs=5e-4)


def test_cohens_kappa_example():
    # 50 proposals, 20 accepted and 15 refused by both readers: https://en.wikipedia.org/wiki/Cohen%27s_kappa
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert cohen_kappa(codes, np.array([20, 5, 10, 15.0]), 2) == pytest.approx(0.4)


def test_shrout_and_fleiss_example():
    # Psychological Bulletin 1979, table 2: six subjects by four judges; ICC(2,1) is 0.29, ICC(3,1) 0.71.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert icc(ratings, np.ones(6)) == pytest.approx((0.29, 0.71), abs=5e-3)
    # A weight of two is the subject twice.
    assert icc(ratings, np.array([2, 1, 1, 1, 1, 1.0])) == pytest.approx(
        icc(ratings[[0, 0, 1, 2, 3, 4, 5]], np.ones(7))
    )


def rows(emotions: str, **more) -> list[dict]:
    """Make rows of one track, a letter and a tenth of a second each."""
    found = []
    for number, letter in enumerate(emotions):
        emotion = next(label for label in LABELS if label[0] == letter)
        probs = {f"prob_{label}": 0.8 if label == emotion else 0.1 for label in LABELS}
        place = {"source": "a.mp4", "frame": number, "time_s": round(number / 10, 6), "face": 0, "track": 0}
        found.append({**place, "emotion": emotion, "prob": 0.8, "status": "ok", **probs, **more})
    return found


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def of(table, comparison: str, emotion: str = "all") -> dict:
    (row,) = table[(table["comparison"] == comparison) & (table["emotion"] == emotion)].to_dict("records")
    return row


ANNA = "start_s,end_s,code\n0,1,neutral\n1,2,Happy\n2,3,sad\n"


def test_two_raters(tmp_path: Path):
    table = agree(rows("n" * 10 + "h" * 5 + "n" * 5 + "s" * 10), [write(tmp_path / "anna.csv", ANNA)])
    assert table["comparison"].unique().tolist() == ["anna - model"]
    assert table["emotion"].tolist() == ["all", *LABELS]
    every = of(table, "anna - model")
    # 25 of 30 agree; by chance (10 * 15 + 10 * 5 + 10 * 10) / 900 would.
    assert (every["frames"], every["agreement"]) == (30, pytest.approx(25 / 30))
    assert every["cohen_kappa"] == pytest.approx((25 / 30 - 1 / 3) / (1 - 1 / 3))
    assert of(table, "anna - model", "sadness")["cohen_kappa"] == 1
    # Three seconds are one stretch, which nothing can be drawn from.
    assert np.isnan(every["cohen_kappa_low"])


def test_intervals_resample_stretches_of_ten_seconds(tmp_path: Path):
    anna = write(tmp_path / "anna.csv", "start_s,end_s,code\n0,30,neutral\n30,60,happiness\n")
    table = agree(rows("n" * 280 + "h" * 320), [anna])
    every = of(table, "anna - model")
    assert every["cohen_kappa"] == pytest.approx(14 / 15)
    assert every["cohen_kappa_low"] < 14 / 15 < every["cohen_kappa_high"]
    assert every["cohen_kappa_low"] > 0.6
    assert every["cohen_kappa_high"] == 1


@pytest.mark.parametrize(("tolerance_s", "agreement"), [(0.0, 27), (0.1, 28), (0.2, 29), (0.3, 30), (1.0, 30)])
def test_tolerance(tmp_path: Path, tolerance_s: float, agreement: int):
    # The model smiles three frames late.
    found = agree(
        rows("n" * 13 + "h" * 7 + "s" * 10),
        [write(tmp_path / "anna.csv", ANNA)],
        AgreementConfig(tolerance_s=tolerance_s),
    )
    assert of(found, "anna - model")["agreement"] == pytest.approx(agreement / 30)


def test_times_without_a_code(tmp_path: Path):
    anna = write(tmp_path / "anna.csv", "start_s,end_s,code\n1,2,happiness\n")
    model = rows("n" * 10 + "h" * 10 + "s" * 10)
    assert of(agree(model, [anna]), "anna - model")["frames"] == 10
    neutral = of(agree(model, [anna], AgreementConfig(uncoded="neutral")), "anna - model")
    assert (neutral["frames"], neutral["agreement"]) == (30, pytest.approx(20 / 30))


def test_several_coders_and_intensities(tmp_path: Path):
    text = "coder,start_s,end_s,code,intensity\n"
    text += "anna,0,1,neutral,0\nanna,1,2,happiness,3\nanna,2,3,sadness,5\n"
    text += "bo,0,1,neutral,0\nbo,1,2,happiness,3\nbo,2,2.5,sadness,4\n"
    table = agree(rows("n" * 10 + "h" * 10 + "s" * 10), [write(tmp_path / "both.csv", text)])
    assert table["comparison"].unique().tolist() == ["anna - bo", "anna - model", "bo - model", "anna - bo - model"]
    both = of(table, "anna - bo - model")
    assert (both["frames"], both["fleiss_kappa"], np.isnan(both["cohen_kappa"])) == (25, 1, True)
    assert both["alpha"] == 1
    assert of(table, "anna - bo", "happiness")["icc_agreement"] == pytest.approx(1)
    sadness = of(table, "anna - bo", "sadness")
    assert 0.9 < sadness["icc_agreement"] < sadness["icc_consistency"] < 1


def test_a_person_is_named_as_the_tracks_are(tmp_path: Path):
    two = [*rows("n" * 10), *rows("h" * 10, track=1, face=1)]
    names = write(tmp_path / "tracks.csv", "track,name\n1,Ann\n")
    coder = write(tmp_path / "bo.csv", "person,start_s,end_s,code\nAnn,0,1,happiness\n")
    assert of(agree(two, [coder], names=names), "bo - model")["agreement"] == 1
    with pytest.raises(DataError, match=r"unknown person 'Ann'\. Allowed: 0, 1"):
        agree(two, [coder])
    # Without a person the largest face counts.
    largest = write(tmp_path / "cy.csv", "start_s,end_s,code\n0,1,happiness\n")
    assert of(agree(two, [largest]), "cy - model")["agreement"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start_s,end_s,code\n0,1,contempt\n", "unknown label 'contempt'"),
        ("start_s,end_s,code\n0,2,happy\n1,2,sad\n", "bad has two codes in a.mp4 before 2.000 s"),
        ("start_s,end_s,code\n50,60,happy\n", "no frame was coded by all of bad, model"),
        ("start_s,end_s,code,coder\n0,1,happy,model\n", "coder 'model' is the name of the model"),
    ],
)
def test_codes_that_cannot_be_used(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        agree(rows("nnn"), [write(tmp_path / "bad.csv", text)])


def test_settings():
    with pytest.raises(ConfigError, match="tolerance_s -1: must be at least 0"):
        AgreementConfig(tolerance_s=-1)
    with pytest.raises(ConfigError, match="uncoded 'bored': no label of the model"):
        agree(rows("nn"), [], AgreementConfig(uncoded="bored"))


def test_files(tmp_path: Path):
    out, report = tmp_path / "agreement.csv", tmp_path / "agreement.html"
    table = agree(rows("n" * 10 + "h" * 20), [write(tmp_path / "anna.csv", ANNA)], out=out, report=report)
    read = pd.read_csv(out)
    assert read["cohen_kappa"].tolist() == pytest.approx(table["cohen_kappa"].tolist(), nan_ok=True)
    page = report.read_text(encoding="utf-8")
    assert all(words in page for words in ("anna - model", "Cohen&#39;s kappa", "30 frames", "left out"))
