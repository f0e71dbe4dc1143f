"""The weight files that others have released: where they are, how large, under which licence, what for. Torch-free.

What is not known is None here and "unknown" to people; sizes and checksums are never guessed.
"""

import dataclasses
import re
from collections.abc import Iterator

from motivnet.errors import CheckpointError, unknown_name

HUB_PREFIX = "hf:"

# A repository's owner or name, and one part of a path inside it: no `..`, nothing hidden, nothing to escape.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-]))*(?<!\.git)(?<![.-])")
_FILE_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*(?<!\.)")
_REPO_LENGTH = 96  # the hub's limit

BYTES_PER_FLOAT32 = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Licence:
    """What may be done with weights.

    Args:
        name: of the licence.
        terms: what it asks, in one line.
        url: of its text, or None if unknown.
    """

    name: str
    terms: str
    url: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.terms}" + (f" ({self.url})" if self.url else "")


CC_BY_NC = Licence(
    "CC BY-NC 4.0",
    "name the authors; no commercial use",
    "https://creativecommons.org/licenses/by-nc/4.0/",
)
SAPIENS2_LICENCE = Licence(
    "Sapiens2 licence",
    "forbids use for surveillance and for biometric processing; read it in the file's repository before use",
)
MOTIVNET_LICENCE = Licence(
    "unknown",
    "ask its authors; its encoder comes from Sapiens, which is CC BY-NC 4.0: no commercial use",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """One released file.

    Args:
        name: what the command line and `load_model` call it.
        repo: repository on the Hugging Face hub, or None if the file is on no hub that is known.
        file: its name there.
        purpose: what it is for, in one line.
        licence: of the weights.
        size_bytes: exact or as published, or None if unknown.
        about_bytes: size calculated from the parameters that are known, or None.
        note: what else one should know.
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
        """Its size for people: "4.68 GB", "about 1.2 GB" or "unknown"."""
        if self.size_bytes is not None:
            return f"{self.size_bytes / 1e9:.2f} GB"
        if self.about_bytes is not None:
            return f"about {self.about_bytes / 1e9:.2g} GB"
        return "unknown"

    @property
    def where(self) -> str:
        """Repository on the hub, or where else to ask."""
        return self.repo or "from its authors; not on a hub that is known"


@dataclasses.dataclass(frozen=True, slots=True)
class HubName:
    """A place on the hub, written `hf:owner/repo` or `hf:owner/repo/path/file.ext`.

    Args:
        repo: owner/name.
        file: path inside the repository, or None for a repository that is a bundle.
    """

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return HUB_PREFIX + self.repo + (f"/{self.file}" if self.file else "")


def sapiens_parameters(width: int, depth: int, positions: int, class_token: bool) -> int:
    """Count the parameters of a Sapiens v1 encoder.

    Args:
        width: of a token.
        depth: layers.
        positions: rows of the position embedding.
        class_token: whether there is one.
    """
    patches = 3 * 16 * 16 * width + width
    layer = 12 * width * width + 13 * width
    return patches + positions * width + class_token * width + depth * layer + 2 * width


# size -> (width, depth, epoch of the pre-training file, average precision in the pose file's name)
_SAPIENS = {
    "0.3b": (1024, 24, 1600, 573),
    "0.6b": (1280, 32, 1600, 609),
    "1b": (1536, 40, 173, 639),
    "2b": (1920, 48, 660, None),
}
_POSE_SIZES = {"1b": 4_680_000_000}
_POSE_NOTES = {"1b": "an earlier upload of it is named sapiens_1b_goliath_best_goliath_AP_640.pth"}

# task -> purpose, and size -> file of the same encoder trained on for it
_SAPIENS_TASKS = {
    "depth": (
        "relative depth, 1024x768",
        {
            "0.3b": "sapiens_0.3b_render_people_epoch_100.pth",
            "0.6b": "sapiens_0.6b_render_people_epoch_70.pth",
            "1b": "sapiens_1b_render_people_epoch_88.pth",
            "2b": "sapiens_2b_render_people_epoch_25.pth",
        },
    ),
    "normal": (
        "surface normals, 1024x768",
        {
            "0.3b": "sapiens_0.3b_normal_render_people_epoch_66.pth",
            "0.6b": "sapiens_0.6b_normal_render_people_epoch_200.pth",
            "1b": "sapiens_1b_normal_render_people_epoch_115.pth",
            "2b": "sapiens_2b_normal_render_people_epoch_70.pth",
        },
    ),
    "seg": (
        "28 body parts, 1024x768",
        {
            "0.3b": "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194.pth",
            "0.6b": "sapiens_0.6b_goliath_best_goliath_mIoU_7777_epoch_178.pth",
            "1b": "sapiens_1b_goliath_best_goliath_mIoU_7994_epoch_151.pth",
        },
    ),
}

# size -> parameters of timm's encoder of that size
_SAPIENS2 = {
    "0.1b": 113_993_472,
    "0.4b": 395_450_368,
    "0.8b": 814_283_520,
    "1b": 1_455_474_176,
    "5b": 5_066_902_976,
}
_SAPIENS2_TASKS = {
    "pretrain": "encoder to train from",
    "pose": "body and face keypoints",
    "seg": "body part segmentation",
    "normal": "surface normals",
    "pointmap": "a 3D point for every pixel",
}


def _sapiens() -> Iterator[Released]:
    for size, (width, depth, epoch, _) in _SAPIENS.items():
        yield Released(
            name=f"sapiens-pretrain-{size}",
            repo=f"facebook/sapiens-pretrain-{size}",
            file=f"sapiens_{size}_epoch_{epoch}_clean.pth",
            purpose="encoder to train from (masked autoencoder, 1024x1024)",
            licence=CC_BY_NC,
            about_bytes=BYTES_PER_FLOAT32 * sapiens_parameters(width, depth, 4097, class_token=True),
            note="size of the encoder in float32",
        )
    for size, (width, depth, _, precision) in _SAPIENS.items():
        if precision is None:
            continue
        about = None if size in _POSE_SIZES else sapiens_parameters(width, depth, 3072, class_token=False)
        yield Released(
            name=f"sapiens-pose-{size}",
            repo=f"facebook/sapiens-pose-{size}",
            file=f"sapiens_{size}_goliath_best_goliath_AP_{precision}.pth",
            purpose="308 body and face keypoints, 1024x768",
            licence=CC_BY_NC,
            size_bytes=_POSE_SIZES.get(size),
            about_bytes=about and BYTES_PER_FLOAT32 * about,
            note=_POSE_NOTES.get(size, "size of the encoder in float32; the pose head comes on top"),
        )
    for task, (purpose, files) in _SAPIENS_TASKS.items():
        for size, file in files.items():
            width, depth, *_ = _SAPIENS[size]
            yield Released(
                name=f"sapiens-{task}-{size}",
                repo=f"facebook/sapiens-{task}-{size}",
                file=file,
                purpose=purpose,
                licence=CC_BY_NC,
                about_bytes=BYTES_PER_FLOAT32 * sapiens_parameters(width, depth, 3072, class_token=False),
                note=f"size of the encoder in float32; the {task} head comes on top",
            )


def _sapiens2() -> Iterator[Released]:
    for task, purpose in _SAPIENS2_TASKS.items():
        for size, parameters in _SAPIENS2.items():
            if (task, size) == ("pose", "0.1b"):
                continue
            head = "" if task == "pretrain" else "; the head comes on top"
            practical = "; the practical encoder, 0.342 TFLOPs an image" if (task, size) == ("pretrain", "0.1b") else ""
            yield Released(
                name=f"sapiens2-{task}-{size}",
                repo=f"facebook/sapiens2-{task}-{size}",
                file=f"sapiens2_{size}_{task}.safetensors",
                purpose=purpose + practical,
                licence=SAPIENS2_LICENCE,
                about_bytes=BYTES_PER_FLOAT32 * parameters,
                note=f"size of the encoder in float32{head}",
            )


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

# What one would expect from the pattern of the names, and would look for in vain.
_NEVER_RELEASED = {
    "sapiens-pose-2b": "the plain 2b pose file was never released; the largest is sapiens-pose-1b",
    "sapiens-seg-2b": "no plain 2b segmentation file is known; the largest is sapiens-seg-1b",
    "sapiens2-pose-0.1b": "Sapiens2 0.1b has no pose file; its encoder is sapiens2-pretrain-0.1b",
}


def released(name: str) -> Released:
    """Find a released file by its name.

    Raises:
        CheckpointError: if there is none of this name.
    """
    if name in _NEVER_RELEASED:
        raise CheckpointError(f"{name}: {_NEVER_RELEASED[name]}")
    for entry in RELEASED:
        if entry.name == name:
            return entry
    message = unknown_name("weights", name, [entry.name for entry in RELEASED])
    raise CheckpointError(f"{message}; or {HUB_PREFIX}owner/repo/file")


def parse_hub_name(name: str) -> HubName:
    """Read `hf:owner/repo` or `hf:owner/repo/path/file.ext`.

    Raises:
        CheckpointError: if it is written otherwise.
    """
    parts = name.removeprefix(HUB_PREFIX).split("/")
    owner_repo, path = parts[:2], parts[2:]
    if (
        not name.startswith(HUB_PREFIX)
        or len(owner_repo) != 2
        or not all(map(_REPO_PART.fullmatch, owner_repo))
        or not all(map(_FILE_PART.fullmatch, path))
        or len("/".join(owner_repo)) > _REPO_LENGTH
    ):
        raise CheckpointError(f"{name!r} is no place on the hub. Allowed: hf:owner/repo, or hf:owner/repo/path/file")
    return HubName("/".join(owner_repo), "/".join(path) or None)
