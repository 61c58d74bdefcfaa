"""Help and hints of the command line: plain brackets, and what to write for an unknown option."""

from __future__ import annotations

import difflib

import click

CUTOFF = 0.6
"""Least similarity, in [0, 1], of an option that is suggested; the dashes do not count."""
SET_ELSEWHERE = {"attack-search": ("engine", "its runs are on engine inline, --jobs at once")}
"""By command: a section of the experiment that it sets by itself, and how."""


class PlainHelp(click.HelpFormatter):
    r"""Writes help with ``[required]`` where typer writes ``\[required]``, as for rich's markup."""

    def getvalue(self) -> str:
        r"""Return the text that was written, with ``[`` for each ``\[``."""
        return super().getvalue().replace("\\[", "[")


class PlainContext(click.Context):
    """A context whose help is plain."""

    formatter_class = PlainHelp


def with_plain_help(command: click.Command | None) -> click.Command | None:
    """Let a command and its subcommands, if any, write plain help; return the command."""
    if command is not None:
        command.context_class = PlainContext
        for subcommand in getattr(command, "commands", {}).values():
            with_plain_help(subcommand)
    return command


def unknown_option(error: click.NoSuchOption) -> click.UsageError:
    """Return the error for an unknown option, which says what to write instead.

    For a key of an experiment that is ``--set KEY=VALUE``, if the command has that option. Else
    click's suggestions are kept if they are similar without their dashes.
    """
    name = error.option_name.lstrip("-").replace("_", "-")
    options = [] if error.ctx is None else error.ctx.command.params
    if any("--set" in option.opts for option in options):
        from hqde_fl.simulations.experiment.errors import known_keys
        from hqde_fl.simulations.experiment.experiment import Experiment

        keys = known_keys(Experiment)
        section, how = SET_ELSEWHERE.get(str(error.ctx and error.ctx.command.name), ("", ""))
        if name == section:
            return click.UsageError(f"No such option '--{name}': {how}", error.ctx)
        if key := next((key for key in keys if name in (key, key.rpartition(".")[2])), None):
            return click.UsageError(f"No such option '--{name}': use --set {key}=...", error.ctx)
    near = [
        option
        for option in error.possibilities or ()
        if difflib.SequenceMatcher(None, name, option.lstrip("-")).ratio() >= CUTOFF
    ]
    return click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
