"""The catalogue of released weight files: where they are, size, licence and purpose. Torch-free.

What is not known is None here and shown as "unknown"; sizes and checksums are never guessed.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from motivnet.errors import CheckpointError, unknown_name

HUB_PREFIX = "hf:"

# A repository's owner or name, and one part of a path inside it: no `..`, nothing hidden, nothing to escape.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-]))*(?<!\.git)(?<![.-])")
_FILE_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*(?<!\.)")
_REPO_LENGTH = 96  # the hub's limit

BYTES_PER_FLOAT32 = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Licence:
    """The licence of weights.

    Args:
        name: short name.
        terms: what it requires, in one line.
        url: of its text, or None if unknown.
    """

    name: str
    terms: str
    url: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.terms}" + (f" ({self.url})" if self.url else "")


CC_BY_NC = Licence(
    "CC BY-NC 4.0", "name the authors; no commercial use", "https://creativecommons.org/licenses/by-nc/4.0/"
)
SAPIENS2_LICENCE = Licence(
    "Sapiens2 licence",
    "forbids use for surveillance and for biometric processing; read it in the file's repository before use",
)
MOTIVNET_LICENCE = Licence(
    "unknown", "ask its authors; its encoder comes from Sapiens, which is CC BY-NC 4.0: no commercial use"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """One released file.

    Args:
        name: what the command line and `load_model` call it.
        repo: repository on the Hugging Face hub, or None if it is on no known hub.
        file: its name there.
        purpose: what it is for, in one line.
        licence: of the weights.
        size_bytes: exact or as published, or None if unknown.
        about_bytes: size estimated from the number of parameters, or None.
        note: anything else worth knowing.
        sha256: checksum as published, or None if unknown.
    """

    name: str
    repo: str | None
    file: str
    purpose: str
    licence: Licence
    size_bytes: int | None = None
    about_bytes: int | None = None
    note: str = ""
    sha256: str | None = None

    @property
    def size(self) -> str:
        """Human-readable size: "4.68 GB", "about 1.2 GB" or "unknown"."""
        if self.size_bytes is not None:
            return f"{self.size_bytes / 1e9:.2f} GB"
        if self.about_bytes is not None:
            return f"about {self.about_bytes / 1e9:.2g} GB"
        return "unknown"

    @property
    def where(self) -> str:
        """Repository on the hub, or where else to get it."""
        return self.repo or "from its authors; not on a hub that is known"


def sapiens_parameters(width: int, depth: int, positions: int, class_token: bool) -> int:
    """Count the parameters of a Sapiens v1 encoder.

    Args:
        width: of a token.
        depth: number of blocks.
        positions: rows of the position embedding.
        class_token: whether there is one.
    """
    patches = 3 * 16 * 16 * width + width
    block = 12 * width * width + 13 * width
    return patches + positions * width + class_token * width + depth * block + 2 * width


# size -> (width, depth)
_SAPIENS_SIZES = {"0.3b": (1024, 24), "0.6b": (1280, 32), "1b": (1536, 40), "2b": (1920, 48)}

# task -> purpose, part of the file's name, and what that has for each size, from the smallest on, as far as released
_SAPIENS: dict[str, tuple[str, str, Sequence[object]]] = {
    "pretrain": ("encoder to train from (masked autoencoder, 1024x1024)", "epoch_{}_clean", (1600, 1600, 173, 660)),
    "pose": ("308 body and face keypoints, 1024x768", "goliath_best_goliath_AP_{}", (573, 609, 639)),
    "depth": ("relative depth, 1024x768", "render_people_epoch_{}", (100, 70, 88, 25)),
    "normal": ("surface normals, 1024x768", "normal_render_people_epoch_{}", (66, 200, 115, 70)),
    "seg": (
        "28 body parts, 1024x768",
        "goliath_best_goliath_mIoU_{}",
        ("7673_epoch_194", "7777_epoch_178", "7994_epoch_151"),
    ),
}

# size -> parameters of timm's encoder of that size
_SAPIENS2_SIZES = {
    "0.1b": 113_993_472,
    "0.4b": 395_450_368,
    "0.8b": 814_283_520,
    "1b": 1_455_474_176,
    "5b": 5_066_902_976,
}
_SAPIENS2 = {
    "pretrain": "encoder to train from",
    "pose": "body and face keypoints",
    "seg": "body part segmentation",
    "normal": "surface normals",
    "pointmap": "a 3D point for every pixel",
}

# Names that the pattern suggests, but that do not exist.
_NEVER_RELEASED = {
    "sapiens-pose-2b": "the plain 2b pose file was never released; the largest is sapiens-pose-1b",
    "sapiens-seg-2b": "no plain 2b segmentation file is known; the largest is sapiens-seg-1b",
    **{
        f"sapiens2-{task}-0.1b": f"Sapiens2 0.1b has no {task} file; its encoder is sapiens2-pretrain-0.1b"
        for task in _SAPIENS2
        if task != "pretrain"
    },
}

# name -> what differs from the pattern
_SPECIAL: dict[str, dict[str, Any]] = {
    "sapiens-pose-1b": {
        "size_bytes": 4_680_000_000,
        "about_bytes": None,
        "note": "an earlier upload of it is named sapiens_1b_goliath_best_goliath_AP_640.pth",
    },
    "sapiens2-pretrain-0.1b": {"purpose": "encoder to train from; the practical encoder, 0.342 TFLOPs an image"},
}


def _sapiens() -> Iterator[Released]:
    for task, (purpose, part, numbers) in _SAPIENS.items():
        head = "" if task == "pretrain" else f"; the {task} head comes on top"
        positions = 4097 if task == "pretrain" else 3072
        for (size, (width, depth)), number in zip(_SAPIENS_SIZES.items(), numbers, strict=False):
            parameters = sapiens_parameters(width, depth, positions, class_token=task == "pretrain")
            file = f"sapiens_{size}_{part.format(number)}.pth"
            yield _entry(f"sapiens-{task}-{size}", file, purpose, CC_BY_NC, parameters, head)


def _sapiens2() -> Iterator[Released]:
    for task, purpose in _SAPIENS2.items():
        head = "" if task == "pretrain" else "; the head comes on top"
        for size, parameters in _SAPIENS2_SIZES.items():
            name, file = f"sapiens2-{task}-{size}", f"sapiens2_{size}_{task}.safetensors"
            if name not in _NEVER_RELEASED:
                yield _entry(name, file, purpose, SAPIENS2_LICENCE, parameters, head)
    purpose = "encoder for 4K images: only to fetch, as no model here has its tokenizer"
    file = "sapiens2_1b_4k_pretrain.safetensors"
    yield _entry("sapiens2-pretrain-1b-4k", file, purpose, SAPIENS2_LICENCE, 1_607_000_000, "")


def _entry(name: str, file: str, purpose: str, licence: Licence, parameters: int, head: str) -> Released:
    usual = {
        "purpose": purpose,
        "about_bytes": BYTES_PER_FLOAT32 * parameters,
        "note": f"size of the encoder in float32{head}",
    }
    return Released(name=name, repo=f"facebook/{name}", file=file, licence=licence, **usual | _SPECIAL.get(name, {}))


_MOTIVNET = Released(
    name="motivnet-1b",
    repo=None,
    file="MotivNet.pth",
    purpose="the seven emotions: Sapiens 1b encoder and ML-Decoder, 1024x768",
    licence=MOTIVNET_LICENCE,
    about_bytes=BYTES_PER_FLOAT32 * (1_139_163_648 + 21_870_215),
    note="give the file's path wherever a model is asked for",
)

RELEASED: tuple[Released, ...] = (_MOTIVNET, *_sapiens(), *_sapiens2())


def released(name: str) -> Released:
    """Find a released file by its name.

    Raises:
        CheckpointError: if there is none of this name.
    """
    if name in _NEVER_RELEASED:
        raise CheckpointError(f"{name}: {_NEVER_RELEASED[name]}")
    by_name = {entry.name: entry for entry in RELEASED}
    if name not in by_name:
        raise CheckpointError(f"{unknown_name('weights', name, by_name)}; or {HUB_PREFIX}owner/repo/file")
    return by_name[name]


def parse_hub_name(name: str) -> tuple[str, str | None]:
    """Split `hf:owner/repo/path/file.ext` into repository and file; `hf:owner/repo`, a bundle, has no file.

    Raises:
        CheckpointError: if it is written otherwise.
    """
    parts = name.removeprefix(HUB_PREFIX).split("/")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    well_formed = all(map(_REPO_PART.fullmatch, parts[:2])) and all(map(_FILE_PART.fullmatch, parts[2:]))
    if not (name.startswith(HUB_PREFIX) and len(parts) > 1 and well_formed and len(repo) <= _REPO_LENGTH):
        raise CheckpointError(f"{name!r} is no place on the hub. Allowed: hf:owner/repo, or hf:owner/repo/path/file")
    return repo, file or None
