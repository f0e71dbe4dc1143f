"""`motivnet live`: the emotions of the faces in front of a camera, as they come."""

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.console import echo
from motivnet.cli.options import DETECTION, Fields, Model, Overwrite, flag, option
from motivnet.errors import ConfigError, one_line
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.machine import keep_freed_memory
from motivnet.server.settings import ServerSettings
from motivnet.video.video_config import FollowConfig

if TYPE_CHECKING:
    import numpy as np

EPILOG = (
    "Ctrl-C, the key q or the end of the file stop it; what was written is complete then. Exit codes: 0 stopped; 1 the "
    "camera gave no picture; 2 a mistake in the command."
)
FOLLOW_FIELDS = Fields(only=("detect_every", "smooth_s"), change={"smooth_s": {"default": 0.5}})
# Keys that close the window.
KEYS = ("<Escape>", "q")
DETECTOR = {"detector": {"help": "yunet, or yunet:MODEL.onnx."}}


def live(
    *,
    camera: Annotated[str, option("INDEX|FILE|URL")] = "0",
    out: Annotated[Path | None, option("OUT.mp4")] = None,
    headless: Annotated[bool, flag("--headless")] = False,
    told: Annotated[ServerSettings, Fields(only=("notice",))],
    seconds: Annotated[float | None, typer.Option(min=0)] = None,
    follow: Annotated[FollowConfig, FOLLOW_FIELDS],
    model: Model = "nano",
    overwrite: Overwrite = False,
    predictor: Annotated[
        PredictorConfig, Fields(only=(*DETECTION, "landmarks", "precision", "device"), change=DETECTOR)
    ],
) -> None:
    """Show a camera's pictures with faces and emotions drawn, as they come (needs the extra `video`).

    Example: motivnet live --camera 0 --out session.mp4

    Options:
        camera: Number of a camera, from 0; a video file, played as if it were one; or a URL such as rtsp://...
        out: Write what is shown.
        headless: Open no window; needs --out.
        seconds: Stop after that time.
    """
    from motivnet.video.camera import label_live

    if headless and out is None:
        raise ConfigError("--headless shows nothing, and nothing is written. Allowed: together with --out FILE.mp4")
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        # A service manager ends the run as Ctrl-C does.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        show = None
        if not headless:
            window = Window(f"motivnet: camera {camera}", told.notice)
            stack.callback(window.close)
            show = window.show
        options: dict[str, Any] = {"seconds": seconds, "follow": follow, "overwrite": overwrite}
        stats = label_live(camera, out, show=show, model=model, config=predictor, **options)
    if stats.error:
        echo(f"motivnet: {one_line(stats.error)}", err=True)
        if not stats.frames:
            raise typer.Exit(1)
    echo(f"{stats}{f'; written to {out}' if out and stats.frames else ''}", err=True)


class Window:
    """A window for pictures, with tkinter, which is part of Python: OpenCV's headless package has no window."""

    def __init__(self, title: str, notice: str | None = None) -> None:
        """Open it, empty but for a notice.

        Raises:
            ConfigError: if there is no screen, or no tkinter.
        """
        allowed = "Allowed: --headless with --out FILE.mp4"
        try:
            import tkinter

            from PIL import ImageTk  # noqa: F401 - not in every build of Pillow
        except ImportError as error:
            raise ConfigError(f"no window can be shown here ({error}). {allowed}") from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise ConfigError(f"no window can be shown here ({error}). {allowed}") from None
        self._open, self._error = True, tkinter.TclError
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        for key in KEYS:
            self._root.bind(key, self._leave)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        if notice:
            tkinter.Label(self._root, text=notice, wraplength=600).pack()
        self._picture: Any = None

    def show(self, image_hwc_u8: "np.ndarray") -> bool:
        """Show an RGB image, uint8 (h, w, 3), shrunk to the screen; return whether the window is still open."""
        from PIL import Image, ImageTk

        image = Image.fromarray(image_hwc_u8)
        image.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight() - 160))
        try:
            # Tk itself keeps no reference to the picture.
            self._picture = ImageTk.PhotoImage(image, master=self._root)
            self._label.configure(image=self._picture)
            self._root.update()
        except self._error:  # closed in the meantime
            self._open = False
        return self._open

    def close(self) -> None:
        """Close it, if it is open."""
        with contextlib.suppress(self._error):
            self._root.destroy()

    def _leave(self, event: object = None) -> None:
        self._open = False
