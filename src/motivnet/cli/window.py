"""A window for pictures, with tkinter, which is part of Python: the OpenCV package that is installed has no window."""

from typing import Any

import numpy as np

from motivnet.errors import ConfigError

# Keys that close the window.
KEYS = ("<Escape>", "q")


class Window:
    """A window on the screen."""

    def __init__(self, title: str) -> None:
        """Open it, empty.

        Raises:
            ConfigError: if there is no screen, or no tkinter.
        """
        try:
            import tkinter

            from PIL import ImageTk  # noqa: F401 - not in every build of Pillow
        except ImportError as error:
            raise _no_window(error) from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise _no_window(error) from None
        self._open = True
        self._error = tkinter.TclError
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        for key in KEYS:
            self._root.bind(key, self._leave)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._picture: Any = None

    def show(self, image_hwc_u8: np.ndarray) -> bool:
        """Show an RGB image, uint8 (h, w, 3), shrunk to the screen; return whether the window is still open."""
        from PIL import Image, ImageTk

        image = Image.fromarray(image_hwc_u8)
        image.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight() - 80))
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
        try:
            self._root.destroy()
        except self._error:
            return

    def _leave(self, event: object = None) -> None:
        self._open = False


def _no_window(error: Exception) -> ConfigError:
    return ConfigError(f"no window can be shown here ({error}). Allowed: --headless with --out FILE.mp4")
