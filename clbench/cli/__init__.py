"""The command line: reads arguments, composes the parts, and says what went wrong in one sentence.

The only module that imports everything, and it does so inside the commands: `clbench --help` answers at once.
"""

import io
import os
import sys
from typing import Annotated

import typer

from clbench import __version__
from clbench.cli.exporting import export_command
from clbench.cli.inspecting import inspect_command
from clbench.cli.listing import cache_command, list_command, show_command
from clbench.cli.measuring import bench_command, check_command
from clbench.cli.options import Command
from clbench.cli.reading import compare_command, report_command, sync_command, verify_command, verify_run_command
from clbench.cli.running import resume_command, rm_command, run_command, status_command
from clbench.cli.tuning import tune_command
from clbench.errors import INTERRUPTED, ClbenchError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual-learning benchmarks with faithful baselines, checked claims and traceable numbers.",
)


def _show_version(value: bool) -> None:
    if value:
        print(f"clbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# In the order of the help.
for _name, _command in (
    ("list", list_command),
    ("show", show_command),
    ("run", run_command),
    ("status", status_command),
    ("resume", resume_command),
    ("rm", rm_command),
    ("report", report_command),
    ("compare", compare_command),
    ("sync", sync_command),
    ("verify", verify_command),
    ("verify-run", verify_run_command),
    ("inspect", inspect_command),
    ("export", export_command),
    ("check", check_command),
    ("tune", tune_command),
    ("bench", bench_command),
    ("cache", cache_command),
):
    app.command(_name, cls=Command)(_command)


def main() -> None:
    """The `clbench` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A folder's name may hold what this terminal cannot show; that is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="clbench")
    except ClbenchError as error:
        print(f"clbench: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
