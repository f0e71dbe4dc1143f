"""A window that shows pictures, in the toolkit that comes with Python (OpenCV's own is not in the package we use)."""

from typing import Any

import numpy as np

from motivnet.errors import ConfigError

# Keys that close the window.
KEYS = ("<Escape>", "q")


class Window:
    """A window on the screen.

    Attributes:
        closed: somebody has closed it.
    """

    def __init__(self, title: str) -> None:
        """Open it, empty.

        Raises:
            ConfigError: if there is no screen, or no toolkit.
        """
        try:
            import tkinter

            from PIL import ImageTk  # noqa: F401 - not in every build of Pillow
        except ImportError as error:
            raise ConfigError(
                f"no window can be shown here ({error}). Allowed: --headless with --out FILE.mp4"
            ) from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise ConfigError(
                f"no window can be shown here ({error}). Allowed: --headless with --out FILE.mp4"
            ) from None
        self.closed = False
        self._error = tkinter.TclError
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        for key in KEYS:
            self._root.bind(key, self._leave)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._picture: Any = None

    def show(self, image_hwc_u8: np.ndarray) -> None:
        """Show an RGB image, uint8 (h, w, 3), shrunk if it is larger than the screen."""
        from PIL import Image, ImageTk

        image = Image.fromarray(image_hwc_u8)
        image.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight() - 80))
        try:
            # Kept here, as the toolkit holds no reference of its own.
            self._picture = ImageTk.PhotoImage(image, master=self._root)
            self._label.configure(image=self._picture)
            self._root.update()
        except self._error:  # it was closed in between
            self.closed = True

    def close(self) -> None:
        """Close it, if nobody has."""
        self.closed = True
        try:
            self._root.destroy()
        except self._error:
            return

    def _leave(self, event: object = None) -> None:
        self.closed = True
