"""Pre-training in miniature: it learns, it goes on exactly where it was, and its encoder serves a classifier."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motivnet import config
from motivnet.checkpoints.bundle import open_bundle
from motivnet.checkpoints.files import open_weights
from motivnet.checkpoints.load import load_model
from motivnet.cli.main import main
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sources.folder import read_images
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.inference.predictor import Predictor
from motivnet.models.config import VitConfig
from motivnet.models.motivnet import build_model
from motivnet.training import init_weights as initial
from motivnet.training.fit import fit
from motivnet.training.mae import pretrain as pretrain_module
from motivnet.training.mae.pretrain import (
    build_pretraining,
    choose_images,
    load_pretraining,
    parameter_groups,
    pretrain,
    random_crop,
)
from motivnet.training.mae.pretrain_recipes import (
    PRETRAIN_RECIPES,
    CropConfig,
    ImagesConfig,
    PretrainRecipe,
    pretrain_recipe,
)
from motivnet.training.recipes import recipe as training_recipe

TINY = [
    "model.image_size=[32,32]",
    "preprocessing.size=[32,32]",
    "model.vit.embed_dim=32",
    "model.vit.depth=1",
    "model.vit.num_heads=2",
    "mae.decoder_dim=16",
    "mae.decoder_depth=1",
    "images.train=null",
    "images.select=null",
    "images.hold_out=0.2",
    "optimizer.lr=0.08",
    "run.batch_size=16",
    "run.epochs=4",
    "picture_epochs=2",
]


def draw(rng: np.random.Generator) -> Image.Image:
    """Draw stripes, of which a patch tells all others."""
    y, x = np.mgrid[:32, :32]
    angle = rng.uniform(0, np.pi)
    return Image.fromarray(np.uint8(128 + 100 * np.sin((x * np.cos(angle) + y * np.sin(angle)) / 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty images in folders whose names mean nothing."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(80):
        file = root / f"day {number % 3}" / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        draw(rng).save(file)
    return root


@pytest.fixture(scope="module")
def tiny() -> PretrainRecipe:
    return config.override(pretrain_recipe("mae"), TINY)


@pytest.fixture(scope="module")
def whole(folder: Path, tiny: PretrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(tiny, read_images(folder), out, progress=False)
    return out


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def test_it_learns_and_leaves_curve_pictures_and_bundle(whole: Path, tiny: PretrainRecipe) -> None:
    steps, epochs = rows(whole / "metrics.csv"), rows(whole / "validation.csv")
    assert len(steps) == 16
    assert {"step", "loss", "lr_backbone", "lr_decoder", "lr_decoder_no_decay"} <= steps[0].keys()
    losses = [float(row["loss"]) for row in epochs]
    assert len(losses) == 4
    assert losses[-1] < 0.97 * losses[0]
    names = [path.name for path in sorted((whole / "reconstructions").iterdir())]
    assert names == ["epoch_0000.png", "epoch_0002.png", "final.png"]
    with Image.open(whole / "reconstructions/final.png") as picture:
        assert (picture.mode, picture.size) == ("L", (3 * 32, 8 * 32))
        shown = np.asarray(picture)
    with Image.open(whole / "reconstructions/epoch_0000.png") as picture:
        assert np.array_equal(np.asarray(picture)[:, :64], shown[:, :64])  # the same images and masks
    bundle = open_bundle(whole / "bundle").config
    assert (bundle.part, bundle.model, bundle.preprocessing) == ("encoder", tiny.model, tiny.preprocessing)
    assert bundle.provenance["selected"] == {"split": None, "loss": pytest.approx(min(losses))}
    assert bundle.provenance["data"]["fingerprint"]
    assert bundle.provenance["images"]["train"] == 64
    assert sorted(path.name for path in (whole / "bundle").iterdir()) == ["config.json", "model.safetensors"]


def test_the_bundle_holds_the_best_epochs_encoder(whole: Path, tiny: PretrainRecipe) -> None:
    model = load_pretraining(whole / "checkpoints/best.ckpt", tiny)
    written = open_weights(whole / "bundle/model.safetensors").tensors
    expected = model.backbone.state_dict()
    assert written.keys() == expected.keys()
    assert all(name.startswith("net.") for name in written)
    assert all(torch.equal(written[name], expected[name]) for name in written)


def test_a_run_that_died_goes_on_as_if_it_had_not(
    folder: Path, tiny: PretrainRecipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, draw_picture = tmp_path / "died", pretrain_module.picture_of

    def die(*arguments: object) -> Image.Image:
        if (out / "reconstructions/epoch_0000.png").exists():
            raise RuntimeError("the machine fell over")
        return draw_picture(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain_module, "picture_of", die)
    with pytest.raises(RuntimeError, match="fell over"):
        pretrain(tiny, read_images(folder), out, progress=False)
    assert not (out / "bundle").exists()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"mae.mask_ratio was 0.75, is 0.5"):
        pretrain(config.override(tiny, ["mae.mask_ratio=0.5"]), read_images(folder), out, progress=False, resume=True)
    pretrain(tiny, read_images(folder), out, progress=False, resume=True)
    for name in ("metrics.csv", "validation.csv", "bundle/model.safetensors", "reconstructions/final.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_is_not_overwritten(folder: Path, tiny: PretrainRecipe, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds a run already"):
        pretrain(tiny, read_images(folder), whole, progress=False)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        pretrain(tiny, read_images(folder), tmp_path / "none", progress=False, resume=True)
    assert not (tmp_path / "none").exists()


def test_nothing_is_written_where_the_encoder_cannot_be_pretrained(
    folder: Path, tiny: PretrainRecipe, tmp_path: Path
) -> None:
    padded = config.override(tiny, ["model.vit.patch_padding=2"])
    with pytest.raises(ConfigError, match=r"vit.patch_padding=0"):
        pretrain(padded, read_images(folder), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "class_token", "padding"), [((32, 32), True, 0), ((48, 64), True, 0), ((64, 32), False, 2)]
)
def test_the_encoder_goes_into_a_classifier(
    whole: Path, tiny: PretrainRecipe, size: tuple[int, int], class_token: bool, padding: int
) -> None:
    assert tiny.model.vit
    vit = dataclasses.replace(tiny.model.vit, class_token=class_token, patch_padding=padding)
    model_config = dataclasses.replace(tiny.model, image_size=size, vit=vit)
    base = training_recipe("nano-fer2013")
    weights = dataclasses.replace(base.backbone, weights=str(whole / "bundle"))
    model = build_model(model_config).eval()
    initial.start(model, dataclasses.replace(base, model=model_config, backbone=weights), None)
    pretrained = load_pretraining(whole / "checkpoints/best.ckpt", tiny)
    own, loaded = pretrained.backbone.state_dict(), model.backbone.state_dict()
    fitted = {"net.pos_embed", "net.cls_token"}
    assert all(torch.equal(own[name], loaded[name]) for name in own.keys() - fitted)
    if size == (32, 32):
        pixels_BCHW = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        all_BN = torch.arange(16).expand(2, -1)
        tokens_BND = pretrained.encode(pixels_BCHW, all_BN)[:, 1:]
        torch.testing.assert_close(model.backbone(pixels_BCHW), tokens_BND)
    assert ("net.cls_token" in loaded) == class_token


def test_a_run_of_a_classifier_takes_the_bundle(
    whole: Path, tiny: PretrainRecipe, faces: Manifest, tmp_path: Path
) -> None:
    frozen = ["run.epochs=1", "run.batch_size=28", "backbone.train=none", f"backbone.weights={whole / 'bundle'}"]
    recipe = config.override(training_recipe("mini-fer2013"), [*TINY[:5], *frozen])
    bundle = fit(recipe, faces, tmp_path / "run", progress=False)
    pretrained, written = open_weights(whole / "bundle/model.safetensors").tensors, open_weights(bundle.weights).tensors
    for name in build_model(recipe.model).backbone.state_dict():
        assert torch.equal(written[f"backbone.{name}"], pretrained[name].half()), name
    assert bundle.config.provenance["init"]["bundle"] == tiny.name


def test_an_encoder_predicts_nothing_and_says_what_to_do(whole: Path) -> None:
    for load in (load_model, Predictor.load):
        with pytest.raises(CheckpointError, match=r"an encoder: .*motivnet train RECIPE --set backbone.weights="):
            load(whole / "bundle")


def test_published_settings_of_sapiens() -> None:
    for size, width in {"0.3b": 1024, "0.6b": 1280, "1b": 1536, "2b": 1920}.items():
        recipe = pretrain_recipe(f"mae-{size}")
        with torch.device("meta"):
            model = build_pretraining(recipe)
        assert model.backbone.embed_dim == width
        assert (model.grid, model.num_masked, model.num_visible) == ((64, 64), 3072, 1024)
        assert model.predict.weight.shape == (768, 512)
        assert len(model.blocks) == 8
        assert model.backbone.net.pos_embed.shape == (1, 4097, width)  # type: ignore[union-attr]
        settings = recipe.optimizer
        assert (settings.lr, settings.betas, settings.weight_decay) == (1.5e-4, (0.9, 0.95), 0.05)
        assert (settings.warmup_epochs, settings.clip_norm, recipe.run.epochs) == (40, 1.0, 1600)


def test_every_recipe_is_plain_data_and_described() -> None:
    for name in PRETRAIN_RECIPES:
        recipe = pretrain_recipe(name)
        assert recipe.name == name
        plain = json.loads(json.dumps(config.to_plain(recipe)))
        assert config.from_plain(PretrainRecipe, plain) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lr=0", "lr 0.0: must be above 0"),
        ("optimizer.warmup_epochs=-1", "warmup_epochs -1.0: must be at least 0"),
        ("optimizer.betas=[0.9,1.0]", "betas .*: must be below 1"),
        ("run.mixup=0.2", "mixup blends labels"),
        ("preprocessing.size=[64,64]", "must be equal"),
        ("model.in_chans=3", "must fit together"),
        ("images.hold_out=1", "hold_out 1.0: must be below 1"),
        ("images.select=Training", "another split than train"),
        ("images.train=null", "train must name a split too"),
        ("crop.area=[0,1]", "area .*: must be above 0"),
        ("crop.aspect=0.5", "aspect 0.5: must be at least 1"),
        ("picture_epochs=0", "picture_epochs 0: must be at least 1"),
        ("mae.mask_ration=0.5", "did you mean 'mask_ratio'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.override(pretrain_recipe("mae"), [setting])


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'mae-0\.3b'"):
        pretrain_recipe("mae-03b")


def manifest_of(*splits: str, copies: int = 1) -> Manifest:
    """Make a manifest of drawn images, each picture in some copies, in turn of the splits."""
    rng, images = np.random.default_rng(1), []
    for _ in range(40):
        picture = draw(rng)
        for level in range(copies):
            # The same pixels in different files.
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=1 + level)
            images.append(buffer.getvalue())
    names = [splits[i // copies % len(splits)] for i in range(len(images))]
    return make_manifest({"image": images, "label": ["neutral"] * len(images), "split": names})


def test_held_out_images_have_no_copy_in_training() -> None:
    chosen = choose_images(manifest_of("all", copies=3), ImagesConfig(hold_out=0.25))
    assert (len(chosen.train), len(chosen.select)) == (90, 30)
    groups = [set(np.array(part.table["row"]) // 3) for part in (chosen.train, chosen.select)]
    assert not groups[0] & groups[1]
    again = choose_images(manifest_of("all", copies=3), ImagesConfig(hold_out=0.25))
    assert again.select.table.equals(chosen.select.table)
    other = choose_images(manifest_of("all", copies=3), ImagesConfig(hold_out=0.25, seed=1))
    assert not other.select.table.equals(chosen.select.table)


def test_test_images_are_never_trained_on() -> None:
    manifest = manifest_of("train", "val", "test")
    with pytest.raises(DataError, match=r"splits test, train, val. Allowed: images.train=SPLIT"):
        choose_images(manifest, ImagesConfig())
    with pytest.raises(DataError, match=r"no rows in split 'Training'. Allowed: test, train, val"):
        choose_images(manifest, ImagesConfig(train="Training", select="val"))
    chosen = choose_images(manifest, ImagesConfig(train="train", select="val"))
    assert set(chosen.train.table["split"].to_pylist()) == {"train"}
    assert set(chosen.select.table["split"].to_pylist()) == {"val"}
    # The first picture of training recurs in the test.
    table = manifest.table
    recurring = Manifest(table.set_column(1, "image", [[table["image"][0], *table["image"][:2], *table["image"][3:]]]))
    assert recurring.table["split"][2].as_py() == "test"
    assert recurring.table["image"][1] == table["image"][0]
    fewer = choose_images(recurring, ImagesConfig(train="train", select="test"))
    assert fewer.report["in_test"] == 1
    assert 0 not in fewer.train.table["row"].to_pylist()


def test_crops_are_drawn_by_the_generator_and_stay_inside() -> None:
    pixels_BCHW = torch.rand(64, 1, 24, 16, generator=torch.Generator().manual_seed(0))

    def cropped(seed: int = 1, **settings: object) -> torch.Tensor:
        return random_crop(pixels_BCHW, CropConfig(**settings), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]

    assert torch.equal(cropped(), cropped())
    assert not torch.equal(cropped(), cropped(seed=2))
    assert cropped().min() >= 0
    assert cropped().max() <= 1
    shares = [
        random_crop(pixels_BCHW[rank::2], CropConfig(), torch.Generator().manual_seed(1), rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), cropped())
    unchanged = cropped(area=(1.0, 1.0), aspect=1.0, flip=False)
    torch.testing.assert_close(unchanged, pixels_BCHW, atol=1e-5, rtol=0)
    mirrored = cropped(area=(1.0, 1.0), aspect=1.0)
    is_same = (mirrored - pixels_BCHW).abs().amax((1, 2, 3)) < 1e-4
    is_mirrored = (mirrored - pixels_BCHW.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (is_same | is_mirrored).all()
    assert 16 < is_mirrored.sum() < 48


def test_a_crop_covers_its_share_of_the_image() -> None:
    # On a picture of coordinates, a crop shows where it was.
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    pixels_BCHW = torch.stack([y, x]).expand(500, -1, -1, -1)
    seen_BCHW = random_crop(pixels_BCHW, CropConfig(area=(0.2, 0.5)), torch.Generator().manual_seed(0))
    height_B, width_B = ((seen_BCHW.amax((2, 3)) - seen_BCHW.amin((2, 3))) / 63).unbind(1)
    area_B, aspect_B = height_B * width_B, width_B / height_B
    assert area_B.min() > 0.18
    assert area_B.max() < 0.52
    assert area_B.mean().item() == pytest.approx(0.35, abs=0.02)
    assert aspect_B.min() > 0.72
    assert aspect_B.max() < 1.4
    left_B = seen_BCHW[:, 1].amin((1, 2))
    assert left_B.min() < 2
    assert left_B.max() > 28


def test_groups_hold_everything_that_is_trained_once(tiny: PretrainRecipe) -> None:
    model = build_pretraining(tiny)
    groups = {group["name"]: group for group in parameter_groups(model, 0.1, 0.05)}
    assert list(groups) == ["backbone", "backbone_no_decay", "decoder", "decoder_no_decay"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert sum(map(len, held.values())) == len(names) - 1
    assert "backbone.net.cls_token" in held["backbone_no_decay"]
    assert "mask_token" in held["decoder_no_decay"]
    assert "predict.weight" in held["decoder"]
    assert [group["weight_decay"] for group in groups.values()] == [0.05, 0.0, 0.05, 0.0]
    assert {group["lr"] for group in groups.values()} == {0.1}


def test_the_rate_is_in_proportion_to_the_batch(whole: Path) -> None:
    # 0.08 a batch of 256 is 0.005 a batch of 16; the warm-up of two epochs of four steps ends with the eighth.
    rates = [float(row["lr_backbone"]) for row in rows(whole / "metrics.csv")]
    assert max(rates) == pytest.approx(0.005)
    assert rates.index(max(rates)) == 7


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program in this process and give the line that it ends in."""

    def end(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["motivnet", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mea", "--data", "x"], "did you mean 'mae'"),
        (["mae"], "--data is missing"),
        (["mae", "--data", "images:absent"], "no such folder"),
        (["mae", "--data", "images:x", "--set", "mae.mask_ratio=1"], "mask_ratio 1.0: must be below 1"),
        (["mae", "--data", "images:x", "--strategy", "dpp"], "'dpp' is not allowed"),
        (["mae", "--data", "images:x", "--devices", "9999", "--accelerator", "cpu"], "--devices 9999"),
        (["mae", "--json"], "belong to --dry-run"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, complaint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = complaint("pretrain", *arguments)
    assert message in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_and_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["motivnet", "pretrain", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return capsys.readouterr().out

    listed = run().splitlines()
    assert [line.split()[0] for line in listed] == list(PRETRAIN_RECIPES)
    assert all(line.endswith(".") for line in listed)
    settings = [part for setting in (*TINY, "run.epochs=1") for part in ("--set", setting)]
    assert json.loads(run("mae", *settings, "--show"))["run"]["epochs"] == 1
    said = run("mae", "--data", f"images:{folder}", "--out", str(tmp_path / "run"), "--accelerator", "cpu", *settings)
    assert f"--set backbone.weights={tmp_path / 'run/bundle'}" in said
    source = open_bundle(tmp_path / "run/bundle").config.provenance["data"]["source"]
    assert source == f"images:{folder.name}"


def test_a_vit_of_other_dimensions_is_named_in_the_complaint(whole: Path, tiny: PretrainRecipe) -> None:
    base = training_recipe("nano-fer2013")
    vit = VitConfig(embed_dim=64, depth=1, num_heads=2, patch_size=8, patch_padding=0)
    model_config = dataclasses.replace(tiny.model, vit=vit)
    weights = dataclasses.replace(base.backbone, weights=str(whole / "bundle"))
    with pytest.raises(CheckpointError, match=r"vit.embed_dim is 32, not 64"):
        initial.check(dataclasses.replace(base, model=model_config, backbone=weights), None)
