"""The application that the commands register with, and the parts common to all of them."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from benchmark import __version__
from benchmark.cli.options import path, several
from benchmark.errors import UserError
from benchmark.output import say, tell
from benchmark.text import named


class Commands(TyperGroup):
    """The commands; Ctrl-C in one of them is reported here, before typer turns it into a silent exit.

    No command ends by SystemExit: if one is raised, it comes from a plug-in and is not a success.
    """

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("interrupted; run the same command to go on from here")
            raise typer.Exit(130) from None
        except SystemExit as error:
            raise UserError(f"a plug-in ended the command ({named(error)}); what is finished is kept") from error


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


SUITES, MORE, KEPT = "Suites", "More", "Data and results"  # the parts of --help


def group(name: str, panel: str, text: str) -> typer.Typer:
    """A command that has commands of its own."""
    found = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(found, name=name, rich_help_panel=panel)
    return found


def _version(asked: bool) -> None:
    if asked:
        say(f"split-inversion-benchmark {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    *,
    plugin: Annotated[
        list[Path],
        several(parser=path, help="load a defence, attack or data set from a .py file; before the command"),
    ],
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")
    ] = False,
):
    """Reproducibility benchmark for defences against model inversion in split inference."""
    from benchmark.registry import load_file, remember

    for file in plugin:
        load_file(file)
    remember(plugin)
