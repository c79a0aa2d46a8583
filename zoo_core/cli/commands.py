"""The command line: finds the command, and turns errors into one paragraph and an exit code."""

from __future__ import annotations

import importlib
import secrets
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

import click

from zoo_core.cli.signals import INTERRUPTED, TERMINATED, Interrupts, TerminatedError
from zoo_core.cli.terminal import safe_streams
from zoo_core.errors import RunCrashError, RunInterruptedError, ZooError, closest_hint
from zoo_core.version import __version__

COMMANDS = {
    "run": "Quantize a model, evaluate every stage, and record the result.",
    "quantize": "Run a model's recipe and save the optimized network.",
    "export": "Write a run's quantized network for a device: ONNX with integer weights, or encodings.",
    "deploy": "Evaluate a run's quantized network on runtimes, and compare each layer with the simulation.",
    "report": "Write the report of a run: tables, plots, what changed.",
    "detect": "Draw the detections of a model's stages in image files.",
    "rescore": "Score stored detections again, without a model and images.",
    "compare": "Compare two runs, or stages of one run, paired by image.",
    "check": "Compare a run with the registry's reference values; exits with 1 on a regression.",
    "reproduce": "Repeat a run from its record; exits with 1 on a difference.",
    "verify": "Check every hash of a run's record, and name what is stale.",
    "runs": "List the runs in a folder, newest first, with headline numbers.",
    "list": "List the models of the catalogue.",
    "show": "Show one model: weights, dataset, recipe, published references.",
    "fetch": "Download a model's weights and dataset into the cache.",
    "new-plugin": "Write a new plugin as a package of its own.",
    "validate": "Check a plugin on drawn pictures, without a download.",
    "doctor": "Check plugins, registry, libraries and devices.",
}
"""Command name to its line of help; `--help` imports no command. Each has a module of its name."""

CRASHED = 3
"""Exit code where the fault is not the user's."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    # ruff: noqa: ARG002 - click passes its context whether a method needs it or not

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"zoo_core.cli.{cmd_name.replace('-', '_')}")
        return next(value for value in vars(module).values() if isinstance(value, click.Command))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the closest command for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = closest_hint(args[0], COMMANDS) or f"; there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"There is no command {args[0]!r}{hint}.", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zoo-eval")
def cli() -> None:
    """What does quantization do to this model, on this data, and can I trust the number?"""


def execute(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run one command and return its exit code; ``interrupts`` are closed when it ends."""
    with safe_streams() as flush:
        try:
            code = cli.main(args=list(arguments), prog_name="zoo-eval", standalone_mode=False)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts.arrived or isinstance(error, KeyboardInterrupt):
                interrupts.closed = True
            code = _ended(error, arguments, interrupted=interrupts.closed)
        interrupts.closed = True
        unwritten = flush()
        if unwritten is not None:
            click.echo(
                f"error: The result cannot be written to stdout: {unwritten.strerror}.\n  {_UNWRITTEN}", err=True
            )
            return code or ZooError.exit_code
    return code if isinstance(code, int) else 0


_UNWRITTEN = "fix: make room, or send it elsewhere; what a run has recorded is in its directory."


def _ended(error: BaseException, arguments: Sequence[str], *, interrupted: bool) -> int:
    """Print what ended a command, and return its exit code."""
    # click does not tell them apart, and its first 8.1 chains them without a cause.
    caught = error.__cause__ or error.__context__ if isinstance(error, click.Abort) else None
    if isinstance(caught, (KeyboardInterrupt, EOFError)):
        error = caught
    if interrupted or isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _interrupted(error)
    if isinstance(error, click.ClickException):
        error.show(file=sys.stderr)
        return error.exit_code
    from zoo_core.evaluation.machine_errors import machine_error

    of_the_user = isinstance(error, ZooError) and error.exit_code != CRASHED
    known = (None if of_the_user else machine_error(error)) or error
    if not isinstance(known, ZooError):
        fact = f"The run failed: {type(error).__name__}: {error}"
        return _report(error, fact, _crash_advice(error), CRASHED, arguments)
    in_a_log = known.exit_code != CRASHED or isinstance(known, RunCrashError)
    return _report(error, known.fact, known.fix if in_a_log else _crash_advice(error), known.exit_code, arguments)


def _interrupted(stop: BaseException) -> int:
    """Print how to resume; return 130 for Ctrl-C and 143 for SIGTERM, as shells count signals."""
    causes = list(_chain(stop))
    click.echo("interrupted", err=True)
    for cause in causes:
        if isinstance(cause, RunInterruptedError):
            from zoo_core.runs.directory import RunDirectory

            click.echo(f"  resume with: {RunDirectory(cause.run_dir).resume_command}", err=True)
            break
    return TERMINATED if any(isinstance(cause, TerminatedError) for cause in causes) else INTERRUPTED


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _report(error: BaseException, fact: str, fix: str, exit_code: int, arguments: Sequence[str]) -> int:
    click.echo(f"error: {fact}\n  fix: {fix}", err=True)
    if "--verbose" in arguments:
        traceback.print_exception(error, file=sys.stderr)
    return exit_code


def _crash_advice(error: BaseException) -> str:
    """Keep the traceback, and say where; a crash before a run starts has no run's log."""
    from zoo_core.artifacts import cache_dir

    name = f"crash-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.txt"
    try:
        path = cache_dir() / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    except (OSError, ZooError):
        return "run again with --verbose for the traceback, and report it."
    return f"read the traceback in {path} and report it."
