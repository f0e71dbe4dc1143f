"""Which rows a cell sees: nested shares of each class, epochs of one length."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import ConfigError, DataError
from motivnet.experiments.ablation import ablate, choose_run_rows, repeat_to, split_rows, subset
from motivnet.experiments.grids import Cell, Grid, make_grid
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


def sampling(**cells: Cell) -> Grid:
    grid = make_grid("sampling", ("run.batch_size=8",))
    return dataclasses.replace(grid, cells=cells) if cells else grid


def test_all_cells_have_epochs_of_one_length(manifest: Manifest) -> None:
    settings = sampling().cells["natural"].settings
    grid = sampling(half=Cell(settings=settings, label_share=0.5), quarter=Cell(settings=settings, label_share=0.25))
    train, others = split_rows(grid, manifest, "PrivateTest")
    assert len(train) == sum(COUNTS) - 1
    for cell in grid.cells:
        rows = choose_run_rows(grid, cell, 0, train, others)
        assert len(rows.train) == sum(round(count / 2) for count in (39, *COUNTS[1:]))
        assert set(rows.train.table["split"].to_pylist()) == {"Training"}
        assert set(rows.select.table["split"].to_pylist()) == {"PublicTest"}
        assert rows.report["epoch"] == len(rows.train)
        assert rows.report["distinct"] == len(set(rows.train.table["row"].to_pylist()))


def test_uniform_rows_recur_equally_often(manifest: Manifest) -> None:
    rows = choose_run_rows(sampling(), "uniform", 0, *split_rows(sampling(), manifest, "PrivateTest"))
    assert rows.report["distinct"] == 7 * min(COUNTS)
    _, times = np.unique(rows.train.table["row"].to_pylist(), return_counts=True)
    assert set(times) == {139 // 42, 139 // 42 + 1}


def test_a_class_weight_is_of_the_rows_that_are_there(manifest: Manifest) -> None:
    rows = choose_run_rows(sampling(), "class-weighted", 0, *split_rows(sampling(), manifest, "PrivateTest"))
    assert rows.class_weights_C is not None
    assert rows.class_weights_C.tolist() == pytest.approx([139 / 7 / count for count in (39, *COUNTS[1:])])


def test_shares_are_nested_and_stratified() -> None:
    targets = np.repeat(np.arange(7), COUNTS)
    for seed in range(3):
        small, large, whole = (subset(targets, share, seed=seed) for share in (0.05, 0.25, 1.0))
        assert set(small) < set(large) < set(whole)
        assert np.bincount(targets[large]).tolist() == [10, 8, 5, 3, 2, 2, 6]
        assert np.bincount(targets[small]).tolist() == [2, 2, 1, 1, 1, 1, 1]
        assert whole.tolist() == list(range(140))
    assert subset(targets, 0.25, seed=0).tolist() != subset(targets, 0.25, seed=1).tolist()


def test_repeating_by_hand() -> None:
    positions = repeat_to(3, 8, seed=0)
    times = np.bincount(positions)
    assert sorted(times.tolist()) == [2, 3, 3]
    assert repeat_to(5, 5, seed=1).tolist() == [0, 1, 2, 3, 4]


def test_labels_that_no_model_knows_are_left_out(manifest: Manifest) -> None:
    columns = {name: manifest.table[name].to_pylist() for name in ("image", "label", "split")}
    rng = np.random.default_rng(1)
    columns["image"].append(noise(rng))
    columns["label"].append("contempt")
    columns["split"].append("Training")
    train, others = split_rows(sampling(), make_manifest(columns, WITH_CONTEMPT), "PrivateTest")
    assert train.labels == others.labels == EMOTIONS
    assert len(train) == sum(COUNTS) - 1


@pytest.mark.parametrize("split", ["Training", "PublicTest"])
def test_what_is_reported_is_not_chosen_on(manifest: Manifest, split: str) -> None:
    with pytest.raises(ConfigError, match=f"'{split}' is reported"):
        split_rows(sampling(), manifest, split)


def test_a_split_that_is_not_there(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="no rows in split 'val'"):
        split_rows(sampling(), manifest, "val")


def test_the_rarest_class_is_reported(manifest: Manifest, tmp_path: Path) -> None:
    keep = [
        (split, label) != ("PrivateTest", EMOTIONS.names[5])
        for split, label in zip(manifest.table["split"].to_pylist(), manifest.table["label"].to_pylist(), strict=True)
    ]
    with pytest.raises(DataError, match=f"'PrivateTest' has no rows of {EMOTIONS.names[5]}, the rarest class"):
        ablate(sampling(), manifest.select(np.array(keep)), tmp_path / "out", data="drawn")
