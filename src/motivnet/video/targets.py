"""What `motivnet video` reads and where its results go."""

import contextlib
import dataclasses
import glob
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from motivnet.errors import DataError, MissingExtraError, OutputError

# Beside the table of rows: option and file name extension of each result that a video may have.
EXTRAS = {"annotate": ".mp4", "timeline": ".png", "report": ".html"}


@dataclasses.dataclass(frozen=True, slots=True)
class Targets:
    """Where the results of one video go, beside its rows.

    Args:
        annotate: its annotated copy; None for none.
        timeline: the plot of its tracks; None for none.
        report: its page; None for none.
    """

    annotate: Path | None = None
    timeline: Path | None = None
    report: Path | None = None


def need_av() -> None:
    """Look for PyAV now rather than when a model has been loaded.

    Raises:
        MissingExtraError: if it is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise MissingExtraError("av", "video")


def find_videos(arguments: Iterable[str]) -> list[Path]:
    """Find the files that the arguments name, in their order.

    Args:
        arguments: files, or glob patterns (`**` reaches into subfolders), whose matches are sorted.

    Raises:
        DataError: if an argument names nothing, or a folder.
    """
    return [path for argument in arguments for path in _find(argument)]


def _find(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        raise DataError(f"{argument}: is a folder. Allowed: video files, or a pattern such as '{path}/*.mp4'")
    if path.exists():
        return [path]
    if not glob.has_magic(argument):
        raise DataError(f"{argument}: no such file")
    # `Path.glob` takes no absolute pattern.
    matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise DataError(f"{argument}: no file matches this pattern")
    return matches


def plan_targets(
    videos: Sequence[Path], out: Path, wanted: dict[str, Path | None], *, overwrite: bool
) -> list[Targets]:
    """Choose the files of each video's results, before any work is done.

    Args:
        videos: what is read.
        out: the table of rows.
        wanted: option, of `EXTRAS`, -> what was given with it: a file; with several videos a folder, made if need be,
            in which each video's result has its name.
        overwrite: whether files that exist may be replaced.

    Raises:
        OutputError: if one exists, is a video that is read, is asked for twice, or has another extension.
    """
    planned = {option: _plan(videos, option, given, overwrite=overwrite) for option, given in wanted.items() if given}
    targets = [Targets(**{name: paths[place] for name, paths in planned.items()}) for place in range(len(videos))]
    sources = {path.resolve() for path in videos}
    taken = {out.resolve()}
    for path in itertools.chain.from_iterable(planned.values()):
        if path.resolve() in sources:
            raise OutputError(f"{path}: is the video that is read")
        if path.resolve() in taken:
            raise OutputError(f"{path}: is asked for twice")
        taken.add(path.resolve())
    if out.resolve() in sources:
        raise OutputError(f"{out}: is the video that is read")
    return targets


def _plan(videos: Sequence[Path], option: str, given: Path, *, overwrite: bool) -> list[Path]:
    extension = EXTRAS[option]
    if len(videos) == 1:
        paths = [given]
        if given.suffix.lower() != extension:
            raise OutputError(
                f"{given}: --{option} writes a {extension} file. Allowed: a name that ends in {extension}"
            )
        if given.is_dir():
            raise OutputError(f"{given}: is a folder; of one video --{option} writes a file")
        if not given.parent.is_dir():
            raise OutputError(f"{given}: the folder {given.parent} does not exist")
    else:
        if given.exists() and not given.is_dir():
            raise OutputError(f"{given}: is a file; of several videos --{option} writes a folder")
        paths = [given / name for name in _names(videos, extension)]
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; --overwrite replaces it")
    return paths


def _names(videos: Sequence[Path], extension: str) -> list[str]:
    taken: set[str] = set()
    names = []
    for video in videos:
        stems = itertools.chain([video.stem], (f"{video.stem}-{number}" for number in itertools.count(2)))
        # Some file systems do not tell upper from lower case.
        name = next(name for stem in stems if (name := f"{stem}{extension}").casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a hidden name beside its own, which it gets when it is complete.

    Args:
        target: the file; its folder is made if need be.
        write: writes a file of the name that it is given.

    Raises:
        OutputError: if it cannot be written.
    """
    # The same name in every run: what a killed one left is replaced by the next.
    unfinished = target.with_name(f".{target.name}.unfinished{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
