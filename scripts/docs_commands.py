"""Write the pages on the commands from the program itself, so that they cannot say anything else than `--help` does."""

import re
from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from motivnet.cli.main import app

Command = TyperCommand | TyperGroup

PROGRAM = "motivnet"
INTRODUCTION = f"""# Commands

Every command, option and default below is read from the program when these pages are built; `{PROGRAM} COMMAND --help`
says the same in a terminal. Results go to stdout, messages to stderr, and the exit code is 2, with one line that says
why, if the command itself is at fault.
"""
# Where a command is told at more length: page and title.
INPUTS, VIDEO, EVIDENCE = ("inputs.md", "Inputs"), ("video.md", "Video and camera"), ("evidence.md", "Evidence")
TRAINING, WEIGHTS = ("training.md", "Train and fine-tune"), ("weights.md", "Released weights")
METHODS = ("training-recipes.md", "Recipes and methods")
GUIDES = {
    "predict": (INPUTS, ("quickstart.md", "Quick start")),
    "video": (VIDEO,),
    "live": (VIDEO,),
    "bulk": (("bulk.md", "Bulk"),),
    "serve": (("server.md", "Server"), ("page.md", "The page")),
    "models": (("models.md", "Models"), WEIGHTS, ("cost.md", "Cost")),
    "card": (("models.md", "Models"),),
    "weights": (WEIGHTS,),
    "train": (TRAINING, ("training-scale.md", "Several devices, resume, speed")),
    **dict.fromkeys(("pretrain", "ablate", "distil"), (METHODS,)),
    "export": (TRAINING,),
    "data": (("datasets.md", "Data sets"),),
    **dict.fromkeys(("evaluate", "benchmark", "audit", "calibrate", "explain"), (EVIDENCE,)),
}


def command_pages() -> dict[str, str]:
    """Give the Markdown of each page by its name below the folder of the commands, the contents first."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    verbs = _shown(program)
    lines = [f"| [`{PROGRAM} {name}`]({name}.md) | {_escape(_first_line(verb))} |" for name, verb in verbs.items()]
    contents = "\n".join([INTRODUCTION, "| command | what it does |", "|---|---|", *lines, ""])
    return {"index.md": contents} | {f"{name}.md": _page(verb, name) for name, verb in verbs.items()}


def _shown(group: TyperGroup) -> dict[str, Command]:
    """Give the commands below a group that help lists, in its order."""
    return {name: each for name, each in group.commands.items() if isinstance(each, Command) and not each.hidden}


def _page(verb: Command, name: str) -> str:
    guides = " and ".join(f"[{title}](../{page})" for page, title in GUIDES.get(name, ()))
    text = "\n".join(_describe(verb, f"{PROGRAM} {name}", level=1, more=f"More on this: {guides}." if guides else ""))
    return text.rstrip() + "\n"


def _describe(command: Command, name: str, *, level: int, more: str = "") -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    yield f"{'#' * level} {name}\n"
    # Usage first, as --help has it; what is in backticks is code in Markdown, too.
    yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    for text in (command.help, command.epilog, more):
        yield f"{text if text == more else _escape(_unwrap(text))}\n" if text else ""
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        parameters = [
            each for each in command.get_params(context) if each.param_type_name == kind and each.name != "help"
        ]
        records = [record for each in parameters if (record := each.get_help_record(context))]
        if records:
            yield f"**{title}**\n"
        yield from (_entry(*record) for record in records)
    for sub, each in _shown(command).items() if isinstance(command, TyperGroup) else ():
        yield from _describe(each, f"{name} {sub}", level=level + 1)


def _entry(names: str, meaning: str) -> str:
    """Write one parameter as a definition; typer's own `  [default: 64; x>=1]` goes to a line of its own."""
    match = re.fullmatch(r"(.*?)(?:  \[(.*)\])?", meaning, re.DOTALL)
    assert match
    text, facts = match[1], match[2]
    definition = _escape(_unwrap(text)) or "Not described."
    return (
        f"`{names.replace(' range>', '>')}`\n:   {definition}"
        + (f"<br>\n    *{_escape(facts)}*" if facts else "")
        + "\n"
    )


def _first_line(command: Command) -> str:
    return _unwrap((command.help or "").split("\n\n")[0])


def _unwrap(text: str) -> str:
    """Join the lines of each paragraph."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\f", text)).strip()


def _escape(text: str) -> str:
    """Keep Markdown from reading marks into plain text; what stands in backticks stays as it is."""
    parts = re.split(r"(`[^`\n]+`)", text)
    parts[::2] = [re.sub(r"[^\w\s.,:;'/()]|_", lambda mark: f"&#{ord(mark[0])};", plain) for plain in parts[::2]]
    return "".join(parts)
