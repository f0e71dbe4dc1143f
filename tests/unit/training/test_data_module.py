"""Which rows a run learns from, and which it is selected on."""

import dataclasses
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from motivnet.data import clean
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sampling import SamplingConfig, fold_of
from motivnet.errors import ConfigError, DataError
from motivnet.labels import EMOTIONS, WITH_CONTEMPT
from motivnet.training.data_module import choose_rows
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import Recipe, SplitConfig


def picture(seed: int, *, size: int = 12) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8))


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def a_recipe(*, sampling: SamplingConfig | None = None, **split: Any) -> Recipe:
    return dataclasses.replace(
        mini_fer2013(),
        split=SplitConfig(**{"train": "train", **split}),
        sampling=sampling or SamplingConfig(),
    )


def make(counts: dict[str, int], *, split: str = "train", first: int = 0, **columns: Any) -> dict[str, list[Any]]:
    """Columns of rows with pictures of their own."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    own = {
        "image": [picture(first + row) for row in range(len(labels))],
        "label": labels,
        "split": [split] * len(labels),
    }
    return own | columns


def join(*parts: dict[str, list[Any]]) -> Manifest:
    names = set().union(*parts)
    columns = {
        name: [value for part in parts for value in part.get(name, [None] * len(part["label"]))] for name in names
    }
    return make_manifest(columns, WITH_CONTEMPT)


def row_numbers(manifest: Manifest) -> list[int]:
    return manifest.table["row"].to_pylist()


EVEN = dict.fromkeys(EMOTIONS, 20)
UNEVEN = {name: 10 * (number + 2) for number, name in enumerate(EMOTIONS)}


class TestHoldOut:
    """Rows of `train` held out where no split is named to select on."""

    def test_it_is_a_share_of_every_class_and_nothing_is_lost(self) -> None:
        manifest = join(make(UNEVEN))
        rows = choose_rows(a_recipe(hold_out=0.1), manifest)
        assert rows.select.counts()["train"] == {name: count // 10 for name, count in UNEVEN.items()}
        assert sorted(row_numbers(rows.train) + row_numbers(rows.select)) == row_numbers(manifest)
        assert rows.report["selection"] == len(rows.select) == sum(UNEVEN.values()) // 10
        assert rows.report["sampled"] == len(rows.train)

    def test_the_seed_alone_decides(self) -> None:
        manifest = join(make(EVEN))
        first, again, other = (
            row_numbers(choose_rows(a_recipe(seed=seed, hold_out=0.2), manifest).select) for seed in (0, 0, 1)
        )
        assert first == again != other

    def test_a_small_class_still_has_a_row(self) -> None:
        counts = EVEN | {"disgust": 3}
        rows = choose_rows(a_recipe(hold_out=0.05), join(make(counts)))
        assert rows.select.counts()["train"]["disgust"] == 1
        assert rows.train.counts()["train"]["disgust"] == 2

    def test_people_are_on_one_side(self) -> None:
        counts = dict.fromkeys(EMOTIONS, 24)
        people = [f"person {row % 12}" for row in range(24 * 7)]
        rows = choose_rows(a_recipe(hold_out=0.2), join(make(counts, subject=people)))
        train, select = (set(part.table["subject"].to_pylist()) for part in (rows.train, rows.select))
        assert not train & select
        assert len(train | select) == 12
        assert len(select) == 2  # of twelve, who show every emotion twice: not above a fifth
        assert all(rows.select.counts()["train"].values())

    def test_people_who_all_show_more_than_the_share(self) -> None:
        """Ten people with three of each, as in JAFFE: a twentieth is less than any of them; one is taken."""
        people = [f"person {row % 10}" for row in range(30 * 7)]
        manifest = join(make(dict.fromkeys(EMOTIONS, 30), subject=people))
        rows = choose_rows(a_recipe(hold_out=0.05), manifest)
        assert len(set(rows.select.table["subject"].to_pylist())) == 1
        assert set(rows.select.counts()["train"].values()) == {3}

    def test_copies_are_on_one_side_even_of_people_with_two_names(self) -> None:
        part = make(EVEN)
        part["image"] = [part["image"][row // 2 * 2] for row in range(len(part["label"]))]
        part["subject"] = [f"name {row}" if row % 3 else None for row in range(len(part["label"]))]
        rows = choose_rows(a_recipe(hold_out=0.2), join(part))
        assert not set(rows.train.table["image"].to_pylist()) & set(rows.select.table["image"].to_pylist())
        assert set(rows.select.counts()["train"].values()) == {4}

    def test_rows_of_nobody_known_are_not_one_person(self) -> None:
        part = make(EVEN, subject=[None, "anna"] * 70)
        rows = choose_rows(a_recipe(hold_out=0.1), join(part))
        unknown = [subject for subject in rows.select.table["subject"].to_pylist() if subject is None]
        assert unknown
        assert "anna" in rows.train.table["subject"].to_pylist()

    def test_a_class_of_one_person_cannot_be_on_both_sides(self) -> None:
        part = make(EVEN)
        part["subject"] = ["only" if label == "fear" else str(row) for row, label in enumerate(part["label"])]
        with pytest.raises(
            DataError, match=r"all rows of fear are of one person or picture.*another split as split.select"
        ):
            choose_rows(a_recipe(), join(part))


class TestFolds:
    """Parts of the training rows that a teacher does not see, and may label."""

    def left_out(self, part: dict[str, list[Any]], every: int = 1) -> list[set[int]]:
        """Row numbers that are not trained on in each of two folds, of every so many rows."""
        val = make(dict.fromkeys(EMOTIONS, 1), split="val", first=1000)
        manifest = join(part, val).select(np.r_[0:140:every, 140:147])
        parts = []
        for fold in range(2):
            rows = choose_rows(a_recipe(folds=2, fold=fold, select="val"), manifest)
            parts.append({row for row in row_numbers(manifest) if row < 140} - set(row_numbers(rows.train)))
            assert rows.report["fold"] == len(parts[-1])
        return parts

    def test_they_are_disjoint_complete_and_do_not_depend_on_the_other_rows(self) -> None:
        first, second = self.left_out(make(EVEN))
        assert first | second == set(range(140))
        assert not first & second
        assert min(len(first), len(second)) > 50
        assert self.left_out(make(EVEN), every=2) == [{row for row in part if row % 2 == 0} for part in (first, second)]

    def test_people_are_in_one_fold(self) -> None:
        first, second = self.left_out(make(EVEN, subject=[f"person {row % 20}" for row in range(140)]))
        assert not {row % 20 for row in first} & {row % 20 for row in second}

    def test_copies_of_what_is_left_out_are_left_out(self) -> None:
        part = make(EVEN, subject=[f"person {row}" if row % 2 else None for row in range(140)])
        part["image"] = [part["image"][row // 2 * 2] for row in range(140)]
        first, second = self.left_out(part)
        assert first | second == set(range(140))
        assert first & second  # pairs with a copy in each fold
        assert all({row ^ 1 for row in rows} == rows for rows in (first, second))

    def test_a_name_has_the_same_fold_everywhere(self) -> None:
        assert fold_of(["anna", None, "anna"], ["x", "anna", "y"], 1000).tolist() == [332] * 3

    def test_out_of_range(self) -> None:
        with pytest.raises(ConfigError, match="fold must be below folds=2, not 2"):
            SplitConfig(train="train", folds=2, fold=2)
        with pytest.raises(ConfigError, match="folds 0: must be at least 1"):
            SplitConfig(train="train", folds=0)


class TestCleaning:
    """What training does not see."""

    def test_pictures_of_other_splits_and_blank_ones(self) -> None:
        train, val = make(EVEN), make(dict.fromkeys(EMOTIONS, 2), split="val", first=1000)
        train["image"][3] = val["image"][5]
        train["image"][4] = encode(np.zeros((12, 12), np.uint8))
        rows = choose_rows(a_recipe(select="val"), join(train, val))
        assert [row for row in range(140) if row not in row_numbers(rows.train)] == [3, 4]
        assert row_numbers(rows.select) == list(range(140, 154))
        report = rows.report
        assert (report["rows"], report["in_test"], report["black"], report["kept"]) == (140, 1, 1, 138)

    def test_the_other_splits_count_where_rows_are_held_out_too(self) -> None:
        train, val = make(EVEN), make(dict.fromkeys(EMOTIONS, 2), split="val", first=1000)
        train["image"][3] = val["image"][5]
        rows = choose_rows(a_recipe(), join(train, val))
        assert 3 not in row_numbers(rows.train) + row_numbers(rows.select)
        assert max(row_numbers(rows.select)) < 140

    def test_one_picture_in_two_small_files_of_different_kinds(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(777).integers(0, 256, (12, 12), dtype=np.uint8)
        for name, kind in (("a.png", "PNG"), ("b.bmp", "BMP")):
            (tmp_path / name).write_bytes(encode(pixels, kind))
        train, val = make(EVEN), make(dict.fromkeys(EMOTIONS, 2), split="val", first=1000)
        for part, name in ((train, "a.png"), (val, "b.bmp")):
            part["path"] = [str(tmp_path / name)] + [None] * (len(part["label"]) - 1)
        assert choose_rows(a_recipe(select="val"), join(train, val)).report["in_test"] == 1

    def test_large_files_are_compared_without_being_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = encode(np.random.default_rng(5).integers(0, 256, (200, 200, 3), dtype=np.uint8))
        assert len(large) > 2 * clean.KEY_BYTES
        other = large[:-3000] + bytes(reversed(large[-3000:]))  # of the same length
        for name, content in (("a.png", large), ("b.png", large), ("c.png", other)):
            (tmp_path / name).write_bytes(content)
        paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
        columns = {"path": paths, "label": ["fear"] * 3, "split": ["train", "val", "val"]}

        def refuse(source: object) -> None:
            raise AssertionError("decoded")

        monkeypatch.setattr(clean, "decode_image", refuse)
        keys, blank = clean.picture_keys(make_manifest(columns))
        assert keys[0] == keys[1] != keys[2]
        assert not blank.any()

    def test_a_missing_image_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        part = make(EVEN)
        part["path"] = [str(tmp_path / "gone.jpg")] + [None] * 139
        with pytest.raises(DataError, match=r"1 of 140 images cannot be read"):
            choose_rows(a_recipe(), join(part))
        assert re.search(r"gone\.jpg: no such file", capsys.readouterr().err)

    def test_a_broken_image_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        part = make(EVEN)
        part["image"][8] = b"no image"
        with pytest.raises(DataError, match="1 of 140 images cannot be read"):
            choose_rows(a_recipe(), join(part))
        assert "\nrow 8: " in capsys.readouterr().err

    def test_labels_that_the_model_does_not_know_are_counted(self) -> None:
        rows = choose_rows(a_recipe(), join(make(EVEN | {"contempt": 5})))
        assert rows.train.labels == rows.select.labels == EMOTIONS
        assert rows.report["left_out"] == {"label contempt": 5}


class TestSampling:
    """Equally many of each class, and what the model is told of the classes."""

    def test_uniform_takes_the_size_of_the_smallest_after_holding_out(self) -> None:
        counts = EVEN | {"disgust": 10}
        recipe = a_recipe(hold_out=0.2, sampling=SamplingConfig(kind="uniform"))
        rows = choose_rows(recipe, join(make(counts)))
        assert rows.train.counts()["train"] == dict.fromkeys(EMOTIONS, 8)
        assert rows.select.counts()["train"] == dict.fromkeys(EMOTIONS, 4) | {"disgust": 2}
        assert rows.report["sampled"] == 56
        torch.testing.assert_close(rows.log_prior_C.exp(), torch.full((7,), 1 / 7))
        assert rows.class_weights_C is None

    def test_more_than_there_are_is_refused(self) -> None:
        recipe = a_recipe(sampling=SamplingConfig(kind="uniform", per_class=20))
        with pytest.raises(DataError, match="has 19 rows, 20 of each"):
            choose_rows(recipe, join(make(EVEN)))

    def test_what_the_model_is_told_of_the_classes(self) -> None:
        manifest = join(make(UNEVEN), make(EVEN, split="val", first=1000))
        counts = torch.tensor([float(count) for count in UNEVEN.values()])
        for kind in ("natural", "balanced", "class-weighted"):
            rows = choose_rows(a_recipe(select="val", sampling=SamplingConfig(kind=kind)), manifest)  # type: ignore[arg-type]
            seen = torch.full((7,), 1 / 7) if kind == "balanced" else counts / counts.sum()
            torch.testing.assert_close(rows.log_prior_C.exp(), seen)
            if kind == "class-weighted":
                torch.testing.assert_close(rows.class_weights_C, counts.sum() / 7 / counts)
            else:
                assert rows.class_weights_C is None
            assert len(rows.train) == int(counts.sum())


class TestRefusals:
    """Before anything is written."""

    @pytest.mark.parametrize("missing", ["fear", "disgust"])
    def test_an_empty_class_is_named(self, missing: str) -> None:
        counts = {name: count for name, count in EVEN.items() if name != missing}
        for select in (None, "val"):
            with pytest.raises(DataError, match=f"no rows of {missing} in .*train"):
                choose_rows(a_recipe(select=select), join(make(counts), make(EVEN, split="val", first=1000)))

    def test_an_empty_class_to_select_on_is_named(self) -> None:
        counts = {name: 2 for name in EMOTIONS if name != "anger"}
        with pytest.raises(DataError, match="no rows of anger in val"):
            choose_rows(a_recipe(select="val"), join(make(EVEN), make(counts, split="val", first=1000)))

    def test_a_class_that_cleaning_empties_is_named(self) -> None:
        train, val = make(EVEN | {"fear": 1}), make(EVEN, split="val", first=1000)
        train["image"][train["label"].index("fear")] = val["image"][0]
        with pytest.raises(DataError, match="no rows of fear in train, after cleaning"):
            choose_rows(a_recipe(select="val"), join(train, val))

    @pytest.mark.parametrize("split", [{"train": "Training"}, {"select": "valid"}])
    def test_a_missing_split_says_what_there_is(self, split: dict[str, Any]) -> None:
        name = next(iter(split.values()))
        with pytest.raises(DataError, match=f"no rows in split '{name}'. Allowed: train, val"):
            choose_rows(a_recipe(**split), join(make(EVEN), make(EVEN, split="val", first=1000)))


def test_a_box_reaches_the_model() -> None:
    pixels = np.zeros((60, 60), np.uint8)
    pixels[10:40, 20:50] = 200
    columns = {"image": [encode(pixels)] * 2, "label": ["fear"] * 2, "split": ["train"] * 2}
    boxes = [[20.0, 10.0, 30.0, 30.0], None]
    dataset = FaceDataset(make_manifest(columns | {"box": boxes}), mini_fer2013().preprocessing)
    cut, whole = dataset[0].pixels, dataset[1].pixels
    assert len(cut.unique()) == 1
    assert len(whole.unique()) > 1


def test_the_two_sides_are_drawn_alike_whatever_the_order_of_a_hash() -> None:
    """The draw goes by the rows' order, not by the text of their keys."""
    first = choose_rows(a_recipe(hold_out=0.2), join(make(EVEN)))
    others = choose_rows(a_recipe(hold_out=0.2), join(make(EVEN, first=5000)))
    assert row_numbers(first.select) == row_numbers(others.select)
    assert Counter(first.select.table["label"].to_pylist()) == dict.fromkeys(EMOTIONS, 4)
