"""Which rows a cell sees: nested shares of each class, epochs of one length."""

import io

import numpy as np
import pytest
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import ConfigError, DataError
from motivnet.experiments.ablation_data import prepare, repeat_to, rows_of, share_of
from motivnet.experiments.grids import Cell, GridOptions, make_grid
from motivnet.labels import EMOTIONS, WITH_CONTEMPT

COUNTS = (40, 30, 20, 12, 8, 6, 24)


def noise(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    rng = np.random.default_rng(0)
    labels = [name for name, count in zip(EMOTIONS, COUNTS, strict=True) for _ in range(count)]
    images = [noise(rng) for _ in range(len(labels) + 14)]
    splits = ["Training"] * len(labels) + ["PublicTest"] * 7 + ["PrivateTest"] * 7
    labels += [*EMOTIONS, *EMOTIONS]
    # A picture of the reported split is in training, too.
    images[0] = images[-1]
    return make_manifest({"image": images, "label": labels, "split": splits})


def cells(**options) -> tuple[Cell, ...]:
    return make_grid("sampling", GridOptions(settings=("run.batch_size=8",), **options)).cells


def test_all_cells_have_epochs_of_one_length(manifest: Manifest) -> None:
    data = prepare(manifest, (*cells(label_share=0.5), *cells(label_share=0.25)), "PrivateTest")
    assert data.report.in_test == 1
    assert data.rarest == EMOTIONS.names[5]
    for share in (0.5, 0.25):
        for cell in cells(label_share=share):
            rows = rows_of(cell, data, 0)
            assert len(rows.train) == sum(round(count / 2) for count in (39, *COUNTS[1:]))
            assert set(rows.train.table["split"].to_pylist()) == {"Training"}
            assert set(rows.select.table["split"].to_pylist()) == {"PublicTest"}
            assert rows.report["epoch"] == len(rows.train)
            assert rows.report["distinct"] == len(set(rows.train.table["row"].to_pylist()))


def test_uniform_rows_recur_equally_often(manifest: Manifest) -> None:
    data = prepare(manifest, cells(), "PrivateTest")
    uniform = next(cell for cell in cells() if cell.recipe.sampling.kind == "uniform")
    rows = rows_of(uniform, data, 0)
    assert rows.report["distinct"] == 7 * min(COUNTS)
    _, times = np.unique(rows.train.table["row"].to_pylist(), return_counts=True)
    assert set(times) == {139 // 42, 139 // 42 + 1}


def test_a_class_weight_is_of_the_rows_that_are_there(manifest: Manifest) -> None:
    data = prepare(manifest, cells(), "PrivateTest")
    weighted = next(cell for cell in cells() if cell.recipe.sampling == SamplingConfig(kind="class-weighted"))
    weights_C = rows_of(weighted, data, 0).class_weights_C
    assert weights_C is not None
    assert weights_C.tolist() == pytest.approx([139 / 7 / count for count in (39, *COUNTS[1:])])


def test_shares_are_nested_and_stratified() -> None:
    targets = np.repeat(np.arange(7), COUNTS)
    for seed in range(3):
        small, large, whole = (share_of(targets, share, seed=seed) for share in (0.05, 0.25, 1.0))
        assert set(small) < set(large) < set(whole)
        assert np.bincount(targets[large]).tolist() == [10, 8, 5, 3, 2, 2, 6]
        assert np.bincount(targets[small]).tolist() == [2, 2, 1, 1, 1, 1, 1]
        assert whole.tolist() == list(range(140))
    assert share_of(targets, 0.25, seed=0).tolist() != share_of(targets, 0.25, seed=1).tolist()


def test_repeating_by_hand() -> None:
    positions = repeat_to(3, 8, seed=0)
    times = np.bincount(positions)
    assert sorted(times.tolist()) == [2, 3, 3]
    assert repeat_to(5, 5, seed=1).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="9 rows cannot fill an epoch of 8"):
        repeat_to(9, 8, seed=0)


def test_labels_that_no_model_knows_are_left_out(manifest: Manifest) -> None:
    columns = {name: manifest.table[name].to_pylist() for name in ("image", "label", "split")}
    rng = np.random.default_rng(1)
    columns["image"].append(noise(rng))
    columns["label"].append("contempt")
    columns["split"].append("Training")
    data = prepare(make_manifest(columns, WITH_CONTEMPT), cells(), "PrivateTest")
    assert data.train.labels == EMOTIONS
    assert data.rarest == EMOTIONS.names[5]
    assert data.report.rows == sum(COUNTS)


@pytest.mark.parametrize("split", ["Training", "PublicTest"])
def test_what_is_reported_is_not_chosen_on(manifest: Manifest, split: str) -> None:
    with pytest.raises(ConfigError, match=f"'{split}' is reported"):
        prepare(manifest, cells(), split)


def test_a_split_that_is_not_there(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="no rows in split 'val'"):
        prepare(manifest, cells(), "val")


def test_the_rarest_class_is_reported(manifest: Manifest) -> None:
    keep = [
        (split, label) != ("PrivateTest", EMOTIONS.names[5])
        for split, label in zip(manifest.table["split"].to_pylist(), manifest.table["label"].to_pylist(), strict=True)
    ]
    with pytest.raises(DataError, match=f"'PrivateTest' has no rows of {EMOTIONS.names[5]}, the rarest class"):
        prepare(manifest.select(np.array(keep)), cells(), "PrivateTest")
