"""A group of commands that imports only the one that runs, and says errors in plain words."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from nirs_store.addresses import without_secrets
from nirs_store.cli._options import debug_option, given
from nirs_store.display import printable
from nirs_store.errors import NirsStoreError, did_you_mean, quoted


class Command(click.Command):
    """A command that takes ``--debug`` wherever it is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        debug_option(self)


class Group(Command, click.Group):
    """A group that names the nearest command when there is none of that name, and takes ``--debug`` too."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        hint = did_you_mean(name, known)
        raise click.UsageError(
            f"No such command {quoted(name)}.{hint} See '{ctx.command_path} --help'.", ctx=ctx
        )


class LazyGroup(Group):
    """The program: a table of commands and their one-line helps, so that listing imports none.

    ``{name: (module of cli.commands, help)}``; the command ``take-over`` is called `take_over` in its module.
    """

    def __init__(self, *args: Any, commands_table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_table = commands_table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_table:
            return None
        module, _ = self.commands_table[cmd_name]
        loaded: click.Command = getattr(
            import_module(f"nirs_store.cli.commands.{module}"), cmd_name.replace("-", "_")
        )
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in self.commands_table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        table = self.commands_table.items()
        return [CompletionItem(name, help=words) for name, (_, words) in table if name.startswith(incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        from nirs_store.cli._output import clean_output

        try:
            with clean_output():
                return super().invoke(ctx)
        except click.UsageError as error:
            # It repeats words of the command, such as an address with a password, and its output may be a log.
            raise click.UsageError(without_secrets(error.format_message()), error.ctx) from error
        except NirsStoreError as error:
            _say(ctx, str(error), error.exit_code, error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe has gone: click ends quietly
                raise
            where = f" ({error.filename})" if error.filename else ""
            _say(ctx, f"{error.strerror or error}{where}", _OS_EXIT, error)


#: As WriteFailed: the operating system refused.
_OS_EXIT = 8


def _say(ctx: click.Context, message: str, code: int, error: BaseException) -> None:
    if given("debug") or os.environ.get("NIRS_STORE_DEBUG"):
        raise error
    # Names in it may come from a stranger's archive.
    lines = "\n".join(printable(line) for line in message.splitlines())
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {lines}", err=True, color=ctx.color)
    ctx.exit(code)
