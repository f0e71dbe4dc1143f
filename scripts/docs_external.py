"""Find what a built site would load from another host: scripts, styles, fonts, pictures, frames."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Attributes by which a tag loads something by itself; a link that one has to click on is not among them.
LOADS = {
    **dict.fromkeys(("script", "img", "source", "iframe", "audio", "embed", "input", "track"), ("src", "srcset")),
    "video": ("src", "poster"),
    "object": ("data",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
# Of <link>, by what it is for: canonical addresses, licences and the like are not fetched.
LOADED_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
IN_STYLES = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class _Loads(HTMLParser):
    """Collect the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        wanted = LOADS.get(tag, ())
        if tag == "link" and LOADED_RELATIONS & set(values.get("rel", "").lower().split()):
            wanted = ("href",)
        addresses = [part.split()[0] for name in wanted for part in values.get(name, "").split(",") if part.split()]
        self.found += [address for address in addresses if re.match(r"(https?:)?//", address, re.IGNORECASE)]
        self.found += IN_STYLES.findall(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += IN_STYLES.findall(data)


def loads_of(file: Path) -> list[str]:
    """Give the addresses on other hosts that an HTML or CSS file loads."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".css":
        return IN_STYLES.findall(text)
    parser = _Loads()
    parser.feed(text)
    return parser.found


def external_loads(site: Path) -> Iterator[tuple[Path, str]]:
    """Give each file of a site with each address on another host that it loads."""
    for file in sorted(site.rglob("*")):
        if file.suffix in (".html", ".css", ".svg"):
            yield from ((file.relative_to(site), address) for address in loads_of(file))
