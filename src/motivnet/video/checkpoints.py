"""What an unfinished run of `motivnet video` leaves behind, so that `--resume` can go on: a hidden folder.

It stands beside the output and holds, for video number N, the rows so far (`N.jsonl`), the finished pieces of the
annotated video (`N-0000.mp4` ...), and the state at the last checkpoint (`N.json`), which is replaced as a whole and
says how much of the others counts. What was written after it is cut off, and done again.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from motivnet.errors import ConfigError, OutputError

PLAN, PUBLISHING, LOCK = "plan.json", "publishing", "lock"
NUM_DIFFERENCES = 3


@dataclasses.dataclass(kw_only=True, slots=True)
class State:
    """How far one video has come.

    Args:
        index: number of the last frame that is done; None before the first checkpoint.
        time_s: its time, in seconds.
        corrupt: frames that could not be decoded up to there.
        size_bytes: of the rows that are done.
        follow: what `video_rows.follow` goes on from.
        pieces: of the annotated video: file name, and the time of its first frame in seconds.
        size: (height, width) of the annotated video, in pixels; None before its first piece.
        finished: the video is done.
        error: why it could not be read; None if it could.
        damage: what is wrong with its end; None if nothing is known to be.
    """

    index: int | None = None
    time_s: float = 0.0
    corrupt: int = 0
    size_bytes: int = 0
    follow: dict[str, Any] | None = None
    pieces: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None
    finished: bool = False
    error: str | None = None
    damage: str | None = None


class Parts:
    """The hidden folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, number: int) -> State:
        """Read the state of a video; a new one if there is none."""
        path = self.folder / f"{number}.json"
        return State(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else State()

    def save(self, number: int, state: State) -> None:
        """Replace the state of a video, as a whole."""
        _write_whole(self.folder / f"{number}.json", json.dumps(dataclasses.asdict(state)))

    def rows_file(self, number: int) -> Path:
        """Name the file of a video's rows."""
        return self.folder / f"{number}.jsonl"

    @contextlib.contextmanager
    def append_rows(self, number: int, state: State) -> Iterator[IO[bytes]]:
        """Open the rows of a video behind those that the state counts; others are cut off."""
        with self.rows_file(number).open("ab") as file:
            file.truncate(state.size_bytes)
            file.seek(state.size_bytes)
            yield file

    def new_piece(self, number: int, state: State) -> Path:
        """Name the next piece of a video's annotated copy; one that was begun is to be replaced."""
        return self.folder / f"{number}-{len(state.pieces):04}.mp4"

    def pieces(self, state: State) -> list[tuple[Path, float]]:
        """Name the pieces, each with its start in seconds from that of the first."""
        return [(self.folder / name, start_s - state.pieces[0][1]) for name, start_s in state.pieces]

    @property
    def publishing(self) -> bool:
        """Whether results had begun to appear under their final names when the run ended."""
        return (self.folder / PUBLISHING).exists()

    def begin_publishing(self) -> None:
        """Note that results appear under their final names from now on."""
        (self.folder / PUBLISHING).touch()

    def remove(self) -> None:
        """Delete all of it, the plan first: without one the rest means nothing."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def parts_folder(out: Path) -> Path:
    """Name the hidden folder of a run whose rows go to `out`."""
    return out.absolute().with_name(f".{out.name}.unfinished")


@contextlib.contextmanager
def open_parts(out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Parts]:
    """Open the hidden folder of a run, and keep other runs out of it.

    Args:
        out: the file of rows that the run is for.
        plan: all that the rows depend on, as plain data.
        resume: go on with what an earlier run left; with nothing left, begin.
        overwrite: throw away what an earlier run left.

    Raises:
        OutputError: if an earlier run left something and neither is wanted, another run is at work, or the folder
            cannot be written.
        ConfigError: if the earlier run had another plan.
    """
    folder = parts_folder(out)
    parts = Parts(folder)
    try:
        folder.mkdir(exist_ok=True)
        with _locked(folder, out):
            _prepare(parts, out, plan, resume=resume, overwrite=overwrite)
            try:
                yield parts
            finally:
                # Before the first checkpoint there is nothing to go on from.
                if not _begun(folder):
                    parts.remove()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None


def _prepare(parts: Parts, out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    folder = parts.folder
    plan = json.loads(json.dumps(plan))
    if _begun(folder):
        before = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if resume:
            _same_plan(out, before, plan)
            return
        if not overwrite:
            raise OutputError(f"{out}: a run was not finished; --resume goes on with it, --overwrite begins anew")
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()
    _write_whole(folder / PLAN, json.dumps(plan))


def _begun(folder: Path) -> bool:
    return (folder / PLAN).exists() and any(path.name != PLAN for path in folder.glob("*.json"))


def _same_plan(out: Path, before: dict[str, Any], plan: dict[str, Any]) -> None:
    wrong = [
        f"{name} was {_short(before.get(name))}, is {_short(plan.get(name))}"
        for name in sorted(before.keys() | plan.keys())
        if before.get(name) != plan.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - NUM_DIFFERENCES} more" if len(wrong) > NUM_DIFFERENCES else ""
        raise ConfigError(
            f"{out}: the run that was not finished was another one: {'; '.join(wrong[:NUM_DIFFERENCES])}{more}. "
            "Allowed: the same command, or --overwrite to begin anew"
        )


def _short(value: object) -> str:
    return "not given" if value is None else str(value)


@contextlib.contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Hold the folder; the system lets go when the process ends, however it does."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{out}: another run is writing it just now") from None
        yield


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
