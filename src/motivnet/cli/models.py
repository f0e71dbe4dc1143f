"""`motivnet models`: the models that come with the package, their licences and scores."""

from typing import Annotated

from motivnet.cli.options import flag

SHOWN = ("name", "summary", "licence", "labels", "preprocessing", "scores", "calibration", "abstain_below")


def models(as_json: Annotated[bool, flag("--json")] = False) -> None:
    """List the models that come with the package, their licences and scores.

    Example: motivnet models --json

    Options:
        as_json: Print one JSON object per model and line.
    """
    from motivnet.checkpoints.bundle import list_models, open_bundle
    from motivnet.cli.console import echo, print_table
    from motivnet.config import to_json, to_plain

    configs = [open_bundle(name).config for name in list_models()]
    if as_json:
        for config in configs:
            plain = to_plain(config)
            plain |= {"labels": list(config.labels), "preprocessing": config.preprocessing.fingerprint}
            echo(to_json({key: plain[key] for key in SHOWN}))
    elif configs:
        rows = [(config.name, config.summary, config.licence, config.measurements) for config in configs]
        print_table(("model", "what it is", "licence", "scores"), rows)
    else:
        echo("No model comes with this installation.", err=True)
