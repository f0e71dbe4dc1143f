"""The site of the documentation: navigation, generated pages, links, and that it loads nothing from outside.

Whether it builds is checked by `make docs`, which `make test` runs.
"""

import html
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

import motivnet
from motivnet.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
LIMITS = (DOCS / "limits.md").read_text(encoding="utf-8")
EVIDENCE = ("benchmarks/evidence/README.md", "benchmarks/evidence/audit.md", "src/motivnet/assets/nano/README.md")


def script(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    return script("docs_hook")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return script("docs_commands").command_pages()


def pages_in(nav: object) -> Iterator[str]:
    """Give every page that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from (page for below in nav.values() for page in pages_in(below))
    elif isinstance(nav, list):
        yield from (page for below in nav for page in pages_in(below))


def test_navigation_names_every_page_once_and_no_others(hook: ModuleType) -> None:
    named = [page for page in pages_in(SETTINGS["nav"]) if page != hook.COMMANDS]
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    mounted = [path.relative_to(ROOT).as_posix() for pattern in hook.MOUNTED for path in ROOT.glob(pattern)]
    assert sorted(named) == sorted(there + [name for name in mounted if name.endswith(".md")])


def test_commands_come_into_the_navigation(hook: ModuleType, pages: dict[str, str]) -> None:
    from mkdocs.config.defaults import MkDocsConfig

    config = MkDocsConfig()
    config["nav"] = [{"Home": "index.md"}, {"Commands": hook.COMMANDS}]
    nav = hook.on_config(config)["nav"]
    assert list(pages_in(nav)) == ["index.md", *(f"commands/{name}" for name in pages)]


def test_every_command_has_a_page(pages: dict[str, str]) -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
    for name, command in ((Path(page).stem, page) for page in pages if page != "index.md"):
        assert re.search(rf"^\W*{name} ", shown, re.MULTILINE), f"{command} is of no command"
        assert f"]({command})" in pages["index.md"]
    assert {"predict.md", "train.md", "data.md", "weights.md"} < set(pages)


def test_pages_have_every_option_that_help_has(pages: dict[str, str]) -> None:
    environment = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}
    for page, text in pages.items():
        for title in re.findall(r"^#+ motivnet (.+)$", text, re.MULTILINE):
            section = text.split(f"# motivnet {title}\n", 1)[1].split("\n## ", 1)[0]
            shown = CliRunner().invoke(app, [*title.split(), "--help"], env=environment).output
            options = set(re.findall(r"(?<![\w`-])--[a-z][a-z-]+", shown)) - {"--help"}
            missing = {option for option in options if not re.search(rf"{option}(?![\w-])", section)}
            assert not missing, f"{page}: motivnet {title}"


def test_an_option_shows_meaning_and_default(pages: dict[str, str]) -> None:
    assert re.search(
        r"^`--batch-size [^`]+`\n:   Maximum number .*<br>\n    \*default: 64", pages["predict.md"], re.MULTILINE
    )
    assert "## motivnet weights list" in pages["weights.md"]


@pytest.mark.parametrize(
    "text",
    [
        "all *.png of [x](y) or a|b",
        "<c> & 0<=x<=9",
        "__snake_case__ # 1",
        "'pics/**/*.jpg' or ~x~",
        r"back\slash \_",
        "$A {b}!",
    ],
)
def test_marks_of_markdown_in_help_stay_text(text: str) -> None:
    markdown = pytest.importorskip("markdown", reason="the extra `docs` is not installed")
    assert html.unescape(markdown.markdown(script("docs_commands")._escape(text))) == f"<p>{text}</p>"


def test_what_help_quotes_is_code() -> None:
    assert script("docs_commands")._escape("a*b, see `c_d *` there") == "a&#42;b, see `c_d *` there"


@pytest.mark.parametrize(
    ("page", "link", "becomes"),
    [
        ("evidence.md", "datasets.md#jaffe", "datasets.md#jaffe"),
        ("evidence.md", "../benchmarks/evidence/README.md", "benchmarks/evidence/README.md"),
        ("reference/images.md", "../inputs.md", "../inputs.md"),
        ("benchmarks/evidence/README.md", "audit.md", "audit.md"),
        ("benchmarks/evidence/README.md", "../../docs/evidence.md#groups", "../../evidence.md#groups"),
        ("evidence.md", "#groups", "#groups"),
        ("evidence.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("evidence.md", "../LICENSE", "../LICENSE"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(hook: ModuleType, page: str, link: str, becomes: str) -> None:
    known = {"evidence.md", "datasets.md", "inputs.md", "reference/images.md"}
    known |= {"benchmarks/evidence/README.md", "benchmarks/evidence/audit.md"}
    assert hook.rewrite_links(f"see [it]({link}).", page, known) == f"see [it]({becomes})."


LOADING = {
    "script.html": '<script src="https://cdn.example/a.js"></script>',
    "style.html": '<link rel="stylesheet" href="//cdn.example/a.css">',
    "preconnect.html": '<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin>',
    "picture.html": '<img src="HTTP://cdn.example/a.png">',
    "pictures.html": '<img srcset="a.png 1x, https://cdn.example/b.png 2x">',
    "inline.html": '<p style="background: url(https://cdn.example/a.png)">',
    "block.html": "<style>@import 'https://cdn.example/a.css';</style>",
    "frame.html": '<iframe src="https://cdn.example/"></iframe>',
    "sheet.css": "@font-face { src: url('https://cdn.example/a.woff2') }",
}
STAYING = {
    "link.html": '<a href="https://example.org/">there</a> <link rel="canonical" href="https://example.org/">',
    "own.html": '<script src="assets/a.js"></script><img src="data:image/png;base64,AA"><style>p { top: 0 }</style>',
    "text.html": "<code>@import https://example.org; url(https://example.org)</code>",
    "sheet.css": "p { background: url(a.png) } /* https://example.org */",
}


@pytest.mark.parametrize("name", LOADING)
def test_what_loads_from_another_host_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LOADING[name], encoding="utf-8")
    ((file, address),) = script("docs_external").external_loads(tmp_path)
    assert file == Path(name)
    assert re.match(r"(https?:)?//", address, re.IGNORECASE)


@pytest.mark.parametrize("name", STAYING)
def test_what_one_has_to_click_on_is_not_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(STAYING[name], encoding="utf-8")
    assert list(script("docs_external").external_loads(tmp_path)) == []


def test_a_site_that_loads_from_elsewhere_is_warned_of(
    hook: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mkdocs.config.defaults import MkDocsConfig

    (tmp_path / "index.html").write_text(LOADING["script.html"], encoding="utf-8")
    (tmp_path / "search").mkdir()
    found = {"docs": [{"text": " ".join(hook.SEARCHED)}]}
    (tmp_path / "search" / "search_index.json").write_text(json.dumps(found), encoding="utf-8")
    config = MkDocsConfig()
    config["site_dir"] = str(tmp_path)
    # What MkDocs' strict mode counts is a warning below the logger `mkdocs`.
    with caplog.at_level("WARNING", logger="mkdocs"):
        hook.on_post_build(config=config)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_every_public_name_is_in_the_reference() -> None:
    documented = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    blocks = {block.split("\n", 1)[0]: block for block in documented.split("::: ")[1:]}
    for name, module in motivnet._HOME.items() - {("__version__", "version")}:
        home = f"motivnet.{module}"
        block = blocks.get(home)
        assert block, f"{home} is on no page of the reference"
        assert "members:" not in block or f"- {name}\n" in block + "\n", f"{home}.{name} is left out of the reference"


def test_contents_of_the_reference_name_all_public_names() -> None:
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    listed = text.rsplit("\n\n", 1)[-1]
    assert set(re.findall(r"`(\w+)`", listed)) - {"motivnet"} == set(motivnet.__all__)


def test_what_pages_link_to_comes_along(hook: ModuleType) -> None:
    assert hook.linked_files("weights.md") == set()
    assert "benchmarks/evidence/README.md" in hook.linked_files("limits.md")
    assert "benchmarks/evidence/audit.md" in hook.linked_files("benchmarks/evidence/README.md")


def test_what_people_search_for_is_found(hook: ModuleType) -> None:
    entries = [{"title": "Tables", "text": "for Excel (xlsx)"}, {"title": "HEIC", "text": ""}, {"text": "elans; GPUs"}]
    assert hook.not_found({"docs": entries}) == ["elan", "gpu"]
    everything = [{"title": "", "text": path.read_text(encoding="utf-8")} for path in DOCS.glob("*.md")]
    assert hook.not_found({"docs": everything}) == []


def test_notebooks_are_those_of_the_tutorials() -> None:
    make = script("docs_notebooks")
    notebooks = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in make.OUT.glob("*.ipynb")}
    assert notebooks == {name: make.notebook(page) for name, page in make.TUTORIALS.items()}


def test_installation_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) == set(project["optional-dependencies"]) - {"docs", "dev"}


@pytest.mark.parametrize("picture", sorted((DOCS / "assets" / "pictures").glob("*.png")), ids=lambda path: path.stem)
def test_every_picture_is_shown_and_made_by_the_script(picture: Path) -> None:
    made = (ROOT / "scripts" / "docs_pictures.py").read_text(encoding="utf-8")
    assert f'"{picture.stem}": {picture.stem},' in made
    assert any(f"pictures/{picture.name})" in page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))


def test_measured_limits_are_those_of_the_evidence() -> None:
    (table,) = re.findall(r"<!-- measured:begin -->\n(.*?)<!-- measured:end -->", LIMITS, re.DOTALL)
    known = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in EVIDENCE)
    numbers = set(re.findall(r"\d+(?:[.,]\d+)?(?= %| to| images|\)| points| are right)", table)) - {"95"}
    assert {"82.9", "77.1", "61", "4.5", "0.748"} <= numbers
    plain = known.replace(",", "")
    assert {
        number for number in numbers if not re.search(rf"(?<![\d.]){number.replace(',', '')}(?![\d.])", plain)
    } == set()


def test_limits_name_law_and_licences() -> None:
    for wanted in (
        "no legal advice",
        "2024/1689",
        "Article 5(1)(f)",
        "Article 50(3)",
        "Annex III",
        "GDPR",
        "CC BY-NC 4.0",
    ):
        assert wanted in LIMITS


def test_theme_loads_no_fonts_and_anchors_are_checked() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert SETTINGS["strict"] is True
    assert set(SETTINGS["validation"].values()) == {"warn"}
