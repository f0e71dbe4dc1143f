"""What MkDocs does beyond its settings: pages from the program, pages from elsewhere in the repository, and checks.

Warnings end `mkdocs build --strict`. The functions named `on_*` are called by MkDocs.
"""

import json
import logging
import posixpath
import re
from pathlib import Path

from docs_commands import command_pages
from docs_external import external_loads
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
COMMANDS = "commands"
# Pages outside docs/ that are part of the site, with their pictures, under the paths that they have in the repository.
MOUNTED = (
    "benchmarks/evidence/*.md",
    "benchmarks/ablations/**/*.md",
    "benchmarks/adaptation/*.md",
    "benchmarks/cross_dataset/*.md",
    "benchmarks/README.md",
    "benchmarks/ablations/**/*.png",
    "src/motivnet/assets/nano/README.md",
)
# Words that people look for and that each page could easily forget.
SEARCHED = ("excel", "heic", "elan", "gpu")
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
_log = logging.getLogger("mkdocs.hooks.docs")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a line into the navigation for every command that the program has."""
    pages = [f"{COMMANDS}/{name}" for name in command_pages()]
    for entry in config.nav or []:
        if COMMANDS in entry.values():
            (title,) = entry
            entry[title] = [{"All commands": pages[0]}, *({Path(page).stem: page} for page in pages[1:])]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages on the commands, those that live elsewhere in the repository, and what any of them links to."""
    for name, content in command_pages().items():
        files.append(File.generated(config, f"{COMMANDS}/{name}", content=content))
    mounted = {path.relative_to(ROOT).as_posix() for pattern in MOUNTED for path in ROOT.glob(pattern)}
    pages = [page.src_uri for page in files.documentation_pages() if page.abs_src_path]
    linked = {target for uri in {*pages, *mounted} if uri.endswith(".md") for target in linked_files(uri)}
    for uri in sorted(mounted | linked):
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    return files


def linked_files(uri: str) -> set[str]:
    """Give the files outside docs/ that a page links to, such as a script or a table of results."""
    text = (ROOT / home_of(uri)).read_text(encoding="utf-8")
    targets = {target_of(link, home_of(uri)) for _, link, _ in LINK.findall(text)}
    return {target for target in targets if not target.startswith(("docs/", "../")) and (ROOT / target).is_file()}


def home_of(uri: str) -> str:
    """Give the path in the repository of a page of the site: in docs/, unless it is a mounted one."""
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def target_of(link: str, home: str) -> str:
    """Give the path in the repository that a link in the file `home` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), link))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    return rewrite_links(markdown, uri, {file.src_uri for file in files})


def rewrite_links(markdown: str, uri: str, known: set[str]) -> str:
    """Turn links between files of the repository, which work where the repository is read, into links of the site.

    Args:
        markdown: of the page.
        uri: of the page in the site.
        known: URIs of all files of the site.
    """

    def replace(match: re.Match[str]) -> str:
        target = target_of(match[2], home_of(uri)).removeprefix("docs/")
        if target not in known:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".") + match[3]

    return LINK.sub(replace, markdown)


@event_priority(-100)
def on_post_build(*, config: MkDocsConfig) -> None:
    """Warn of everything that the site would load from another host, and of words that its search does not find."""
    for file, address in external_loads(Path(config.site_dir)):
        _log.warning("%s loads %s from elsewhere", file, address)
    index = json.loads((Path(config.site_dir) / "search" / "search_index.json").read_text(encoding="utf-8"))
    for word in not_found(index):
        _log.warning("a search for %s finds nothing", word)


def not_found(index: dict) -> list[str]:
    """Give the words of SEARCHED that an index of MkDocs' search has nowhere."""
    text = " ".join(f"{entry.get('title', '')} {entry.get('text', '')}" for entry in index["docs"])
    known = set(re.findall(r"\w+", text.lower()))
    return [word for word in SEARCHED if word not in known]
