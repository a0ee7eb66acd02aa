"""One command, `symstride`, with a module here for each subcommand.

A module `NAME.py` (or `NAME_.py` where the name is a Python keyword) holds a function `command`, whose
signature and docstring are its options and help. It imports what is heavy inside that function, so that
`symstride --help` stays fast.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable

import typer

from symstride.errors import SymstrideError, SymstrideWarning

COMMANDS = ("sample", "import_", "advise", "train", "run", "extend", "verify", "export", "quickstart")

app = typer.Typer(
    name="symstride",
    help="Long-stride classical dynamics from a learned action: sample, train, run, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _group() -> None:
    """Keeps subcommands subcommands even if there is one."""


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with a user's errors printed as one line (exit 1) and a quiet Ctrl-C (exit 130)."""

    @functools.wraps(command)
    def guarded(*args, **kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SymstrideError as error:
            print(f"symstride: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            print("symstride: stopped; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from error

    return guarded


for _name in COMMANDS:
    _module = importlib.import_module(f"symstride.cli.{_name}")
    app.command(_name.rstrip("_"))(_guarded(_module.command))


def main() -> None:
    """The entry point of the `symstride` command."""
    warnings.showwarning = _show_warning
    app()


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, SymstrideWarning):
        print(f"symstride: warning: {message}", file=sys.stderr)
