import dataclasses

import pytest
import torch

from motivnet.checkpoints.released import (
    RELEASED,
    parse_hub_name,
    released,
)
from motivnet.errors import CheckpointError
from motivnet.models.config import preset
from motivnet.models.motivnet import build_backbone


def test_names_and_places_are_distinct() -> None:
    assert len({entry.name for entry in RELEASED}) == len(RELEASED)
    assert len({(entry.repo, entry.file) for entry in RELEASED}) == len(RELEASED)


@pytest.mark.parametrize(
    ("name", "repo", "file"),
    [
        ("sapiens-pretrain-0.3b", "facebook/sapiens-pretrain-0.3b", "sapiens_0.3b_epoch_1600_clean.pth"),
        ("sapiens-pretrain-1b", "facebook/sapiens-pretrain-1b", "sapiens_1b_epoch_173_clean.pth"),
        ("sapiens-pretrain-2b", "facebook/sapiens-pretrain-2b", "sapiens_2b_epoch_660_clean.pth"),
        ("sapiens-pose-0.3b", "facebook/sapiens-pose-0.3b", "sapiens_0.3b_goliath_best_goliath_AP_573.pth"),
        ("sapiens-pose-0.6b", "facebook/sapiens-pose-0.6b", "sapiens_0.6b_goliath_best_goliath_AP_609.pth"),
        ("sapiens-pose-1b", "facebook/sapiens-pose-1b", "sapiens_1b_goliath_best_goliath_AP_639.pth"),
        ("sapiens-depth-1b", "facebook/sapiens-depth-1b", "sapiens_1b_render_people_epoch_88.pth"),
        ("sapiens-normal-2b", "facebook/sapiens-normal-2b", "sapiens_2b_normal_render_people_epoch_70.pth"),
        (
            "sapiens-seg-0.3b",
            "facebook/sapiens-seg-0.3b",
            "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194.pth",
        ),
        ("sapiens2-pretrain-1b", "facebook/sapiens2-pretrain-1b", "sapiens2_1b_pretrain.safetensors"),
        ("sapiens2-pointmap-0.4b", "facebook/sapiens2-pointmap-0.4b", "sapiens2_0.4b_pointmap.safetensors"),
        ("sapiens2-pretrain-1b-4k", "facebook/sapiens2-pretrain-1b-4k", "sapiens2_1b_4k_pretrain.safetensors"),
        ("motivnet-1b", None, "MotivNet.pth"),
    ],
)
def test_files_stand_where_their_publishers_put_them(name: str, repo: str | None, file: str) -> None:
    entry = released(name)
    assert (entry.repo, entry.file) == (repo, file)


def test_every_combination_that_exists_is_listed() -> None:
    names = {entry.name for entry in RELEASED}
    assert sum(name.startswith("sapiens-") for name in names) == 4 + 3 + 4 + 4 + 3
    assert sum(name.startswith("sapiens2-") for name in names) == 6 + 4 * 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sapiens-pose-2b", "never released"),
        ("sapiens-seg-2b", "no plain 2b segmentation"),
        ("sapiens2-pose-0.1b", "no pose"),
        ("sapiens2-seg-0.1b", "no seg"),
    ],
)
def test_what_was_never_released_is_not_listed_and_says_so(name: str, reason: str) -> None:
    assert name not in {entry.name for entry in RELEASED}
    with pytest.raises(CheckpointError, match=reason):
        released(name)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        CheckpointError, match=r"'sapiens-pose-1bb'; did you mean 'sapiens-pose-1b'.*hf:owner/repo/file"
    ):
        released("sapiens-pose-1bb")


@pytest.mark.parametrize("size", ["0.3b", "0.6b", "1b"])
def test_estimated_sizes_are_those_of_the_encoders(size: str) -> None:
    with torch.device("meta"):
        encoder = build_backbone(preset(f"motivnet-{size}"))
    about = released(f"sapiens-depth-{size}").about_bytes
    assert about == 4 * sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [("sapiens-pose-1b", "4.68 GB"), ("motivnet-1b", "about 4.6 GB"), ("sapiens2-pretrain-0.1b", "about 0.46 GB")],
)
def test_sizes_say_whether_they_are_known(name: str, size: str) -> None:
    assert released(name).size == size


def test_a_size_that_nobody_knows_is_called_unknown() -> None:
    entry = dataclasses.replace(released("sapiens-pose-1b"), size_bytes=None, about_bytes=None)
    assert entry.size == "unknown"


def test_licences() -> None:
    for entry in RELEASED:
        if entry.name.startswith("sapiens-"):
            assert entry.licence.name == "CC BY-NC 4.0"
        if entry.name.startswith("sapiens2-"):
            assert "surveillance" in entry.licence.terms
            assert "biometric" in entry.licence.terms
    assert "ask its authors" in str(released("motivnet-1b").licence)


def test_notes_name_the_earlier_upload() -> None:
    assert "AP_640" in released("sapiens-pose-1b").note


def test_motivnet_is_on_no_hub() -> None:
    assert released("motivnet-1b").where == "from its authors; not on a hub that is known"


@pytest.mark.parametrize(
    ("text", "repo", "file"),
    [
        ("hf:owner/repo", "owner/repo", None),
        ("hf:owner/repo-1.5_b/model.safetensors", "owner/repo-1.5_b", "model.safetensors"),
        ("hf:owner/repo/deep/er/MotivNet.pth", "owner/repo", "deep/er/MotivNet.pth"),
        ("hf:facebook/sapiens-pose-1b/sapiens_1b_a.pth", "facebook/sapiens-pose-1b", "sapiens_1b_a.pth"),
    ],
)
def test_hub_names_are_split(text: str, repo: str, file: str | None) -> None:
    assert parse_hub_name(text) == (repo, file)


@pytest.mark.parametrize(
    "text",
    [
        "owner/repo",
        "hf:",
        "hf:repo",
        "hf:/repo",
        "hf:owner/",
        "hf:owner/repo/",
        "hf:owner/repo//file",
        "hf:owner/repo/../file",
        "hf:../repo/file",
        "hf:owner/repo/.git",
        "hf:owner/repo/a file",
        "hf:owner/repo/file\n",
        "hf:owner/re--po",
        "hf:owner/repo.git",
        "hf:owner/repo\\file",
        "hf:owner/repo?x=1",
        "hf:owner/" + "r" * 100,
        "https://hub/owner/repo",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no place on the hub\. Allowed: hf:owner/repo, or hf:"):
        parse_hub_name(text)
