"""Whether a run may begin in a folder, or go on there."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from motivnet import config, storage
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.training.mae.pretrain_recipes import pretrain_recipe
from motivnet.training.run_dir import BEST, LAST, begin, check_folder
from motivnet.training.settings import Recipe

PLACE = {"world_size": 1, "strategy": "ddp"}
FACTS = {"place": PLACE, "rows": {"train": "aa", "select": "bb"}}
CONTENT = {"state_dict": {"weight": torch.zeros(1000)}, "loops": {}, "optimizer_states": []}


def checkpoint(path: Path, content: object = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_what_has_no_checkpoint_may_begin_again_or_be_resumed(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe, out = tiny(), tmp_path / "run"
    assert check_folder(recipe, out, resume=False) is None
    assert not out.exists()
    with pytest.raises(CheckpointError, match=r"nothing to resume, recipe\.json is missing"):
        check_folder(recipe, out, resume=True)
    out.mkdir()
    begin(recipe, out, FACTS, resume=False)
    assert check_folder(recipe, out, resume=False) is None
    assert check_folder(recipe, out, resume=True) is None
    assert sorted(path.name for path in out.iterdir()) == ["recipe.json", "run.json"]


@pytest.mark.parametrize("held", [LAST, BEST, Path("bundle/config.json")])
def test_a_run_is_not_overwritten(held: Path, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    checkpoint(tmp_path / held)
    with pytest.raises(OutputError, match=r"holds a run already\. Allowed: another folder, or --resume"):
        check_folder(tiny(), tmp_path, resume=False)


def test_what_cannot_be_written_is_one_line(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OutputError, match=r"recipe\.json: cannot be written: No space left on device"):
        begin(tiny(), tmp_path, FACTS, resume=False)


def test_a_run_of_another_kind_is_named(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    begin(pretrain_recipe("mae"), tmp_path, FACTS, resume=False)
    with pytest.raises(CheckpointError, match=r"recipe\.json: cannot be read: .*unknown setting"):
        check_folder(tiny(), tmp_path, resume=True)


def test_damaged_facts_are_named(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    begin(tiny(), tmp_path, FACTS, resume=False)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read"):
        begin(tiny(), tmp_path, FACTS, resume=True)


def test_a_changed_recipe_is_refused_with_its_differences(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny()
    begin(recipe, tmp_path, FACTS, resume=False)
    last = checkpoint(tmp_path / LAST)
    assert check_folder(recipe, tmp_path, resume=True) == last
    other = config.override(recipe, ["optimizer.head_lr=0.01", "run.epochs=1"])
    with pytest.raises(ConfigError, match=r"optimizer\.head_lr was 0\.001, is 0\.01; run\.epochs was 2, is 1"):
        check_folder(other, tmp_path, resume=True)


def test_damaged_checkpoints_are_refused_with_a_way_out(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    begin(tiny(), tmp_path, FACTS, resume=False)
    last = checkpoint(tmp_path / LAST)
    whole = last.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:-1]):
        last.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged: .* Allowed: copy best\.ckpt"):
            check_folder(tiny(), tmp_path, resume=True)
    for other in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        checkpoint(last, other)
        with pytest.raises(CheckpointError, match="damaged: not a training checkpoint"):
            check_folder(tiny(), tmp_path, resume=True)


def test_a_damaged_recipe_is_refused(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": ')
    with pytest.raises(CheckpointError, match=r"recipe\.json: cannot be read"):
        check_folder(tiny(), tmp_path, resume=True)


def test_other_devices_and_other_rows_are_refused(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny()
    assert begin(recipe, tmp_path, FACTS | {"init": "somewhere"}, resume=False)["init"] == "somewhere"
    # What a run started from stays known when it goes on without being told again.
    assert begin(recipe, tmp_path, FACTS | {"init": None}, resume=True)["init"] == "somewhere"
    with pytest.raises(ConfigError, match=r"another run: world_size was 1, is 2\. Allowed: as many devices"):
        begin(recipe, tmp_path, FACTS | {"place": PLACE | {"world_size": 2}}, resume=True)
    with pytest.raises(DataError, match="the run was trained on other rows"):
        begin(recipe, tmp_path, FACTS | {"rows": {"train": "aa", "select": "cc"}}, resume=True)
    # From the beginning, all of it may be other.
    begin(recipe, tmp_path, FACTS | {"place": PLACE | {"world_size": 2}}, resume=False)
    assert json.loads((tmp_path / "run.json").read_text())["place"]["world_size"] == 2
