"""`motivnet live`: the emotions of the faces before a camera, as they are seen."""

import collections
import contextlib
import signal
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.options import Device, Model, Overwrite

if TYPE_CHECKING:
    import numpy as np

    from motivnet.video.follow import FrameResult
    from motivnet.video.live import LiveFrames
    from motivnet.video.window import Window

EPILOG = (
    "Ctrl-C, the key q or the end of the file stop it; what was written is complete then. Exit codes: 0 stopped; 1 the "
    "camera gave no picture; 2 a mistake in the command."
)
# Of what the overlay and the summary speak: the last so many frames.
SHOWN_FRAMES, SUMMED_FRAMES = 30, 10_000


def live(
    camera: Annotated[
        str,
        typer.Option(
            metavar="INDEX|FILE|URL",
            help="Number of a camera, from 0; a video file, played as if it were one; or a URL such as rtsp://...",
        ),
    ] = "0",
    out: Annotated[Path | None, typer.Option(metavar="OUT.mp4", help="Write what is shown.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Open no window; needs --out.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after that time.")] = None,
    detect_every: Annotated[
        int, typer.Option(min=1, help="Look for faces in each so-many-th frame; they stay where they are in between.")
    ] = 1,
    smooth: Annotated[
        float, typer.Option(metavar="SECONDS", help="Smooth each face's probabilities with this time constant; 0: not.")
    ] = 0.5,
    model: Model = "nano",
    detector: Annotated[str, typer.Option(help="libfacedetection, or yunet:MODEL.onnx.")] = "libfacedetection",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Show a camera's pictures with faces and emotions drawn, as they come (needs the extra `video`)."""
    from motivnet.cli.video import keep_memory
    from motivnet.errors import ConfigError, ImageError
    from motivnet.video.targets import need_av

    if headless and out is None:
        raise ConfigError("--headless shows nothing, and nothing is to be written. Allowed: with --out FILE.mp4")
    if out is not None:
        _check_out(out, overwrite=overwrite)
    need_av()
    from motivnet.inference.predictor import Predictor
    from motivnet.video.follow import FollowConfig, follow
    from motivnet.video.live import LiveFrames

    config = FollowConfig(detect_every=detect_every, smooth_s=smooth, keep_images=True, live=True)
    keep_memory()
    predictor = Predictor.load(model, detector=detector, device=device)
    with contextlib.ExitStack() as stack:
        window = None
        if not headless:
            from motivnet.video.window import Window

            window = Window(f"motivnet: camera {camera}")
            stack.callback(window.close)
        meter = stack.enter_context(_summary(out))
        recording = stack.enter_context(_recording(out)) if out else None
        stack.enter_context(_stopping())
        frames = meter.frames = stack.enter_context(LiveFrames(camera))
        results = stack.enter_context(contextlib.closing(follow(predictor, frames, config)))
        try:
            _show(results, meter, recording, window, seconds)
        except KeyboardInterrupt:
            pass
        except ImageError as error:
            # A camera that is unplugged ends the film; it does not spoil it.
            typer.echo(f"motivnet: {' '.join(str(error).split())}", err=True)
            if not meter.shown:
                raise typer.Exit(1) from None


def _show(
    results: "Iterable[FrameResult]",
    meter: "_Meter",
    recording: "Callable[[np.ndarray, float], None] | None",
    window: "Window | None",
    seconds: float | None,
) -> None:
    """Draw, write and show frames until they end, the window is closed, or the time is over."""
    for result in results:
        picture = meter.draw(result)
        if recording:
            recording(picture, result.time_s)
        if window:
            window.show(picture)
        meter.count(result)
        if (window and window.closed) or (seconds is not None and result.time_s >= seconds):
            return


class _Meter:
    """Frames per second and latency, of the last frames and of all."""

    def __init__(self) -> None:
        self.frames: LiveFrames | None = None
        self.shown = 0
        self.first_s = self.last_s = 0.0
        self._times: collections.deque[float] = collections.deque(maxlen=SHOWN_FRAMES)
        self._ages: collections.deque[float] = collections.deque(maxlen=SUMMED_FRAMES)

    def draw(self, result: "FrameResult") -> "np.ndarray":
        """Draw faces and figures onto the frame."""
        from motivnet.video.overlay import draw_frame, draw_note

        picture = draw_frame(result)
        self._times.append(result.time_s)
        seconds = self._times[-1] - self._times[0]
        fps = f"{(len(self._times) - 1) / seconds:.0f} fps" if seconds > 0 else "- fps"
        draw_note(picture, f"{fps}   {1000 * self._age(result):.0f} ms")
        return picture

    def count(self, result: "FrameResult") -> None:
        """Take note of a frame that has been shown."""
        if not self.shown:
            self.first_s = result.time_s
        self.shown, self.last_s = self.shown + 1, result.time_s
        self._ages.append(self._age(result))

    def _age(self, result: "FrameResult") -> float:
        return self.frames.age(result.time_s) if self.frames else 0.0

    def told(self) -> str:
        """Sum up."""
        if not self.shown or self.frames is None:
            return "no frame was shown"
        seconds = self.last_s - self.first_s
        ages_ms = sorted(1000 * age for age in self._ages)
        late_ms = ages_ms[min(len(ages_ms) - 1, int(0.95 * len(ages_ms)))]
        fps = f" ({(self.shown - 1) / seconds:.1f} per second)" if seconds > 0 else ""
        return (
            f"{self.shown:,} frames in {seconds:.1f} s{fps}; latency {statistics.median(ages_ms):.0f} ms, "
            f"95 % below {late_ms:.0f} ms; {self.frames.dropped:,} of {self.frames.taken:,} frames dropped"
        )


@contextlib.contextmanager
def _summary(out: Path | None) -> Iterator[_Meter]:
    meter = _Meter()
    yield meter
    typer.echo(meter.told() + (f"; written to {out}" if out and meter.shown else ""), err=True)


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Let a service manager's SIGTERM end it as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_out(out: Path, *, overwrite: bool) -> None:
    from motivnet.errors import OutputError

    if out.suffix.lower() != ".mp4":
        raise OutputError(f"{out}: unknown format {out.suffix!r}. Allowed: .mp4")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist")


@contextlib.contextmanager
def _recording(out: Path) -> "Iterator[Callable[[np.ndarray, float], None]]":
    """Write pictures under a hidden name, which becomes the true one when the film is complete."""
    from motivnet.video.writer import VideoWriter

    unfinished = out.with_name(f".{out.name}.unfinished.mp4")
    writer: VideoWriter | None = None
    start_s = 0.0

    def write(picture: "np.ndarray", time_s: float) -> None:
        nonlocal writer, start_s
        if writer is None:
            writer, start_s = VideoWriter(unfinished, picture.shape[:2]), time_s
        writer.write(picture, time_s - start_s)

    try:
        yield write
    finally:
        if writer is not None:
            try:
                writer.close()
                unfinished.replace(out)
            finally:
                unfinished.unlink(missing_ok=True)
