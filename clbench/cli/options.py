"""The commands' options, and what is read from them."""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from clbench.errors import SettingError

if TYPE_CHECKING:
    import torch

    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm
    from clbench.runs.spec import Precision
    from clbench.screen import Screen


class Command(TyperCommand):
    """A command that refuses an option of one value that is given twice, of which the last alone would count.

    Where there is `--set`, it says so to who gives a setting as an option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises SettingError for an option that is given too often, and for a setting that is none."""
        given = list(args)
        try:
            left = super().parse_args(ctx, args)
        except Exception as error:
            # Typer has no public name for the error of an unknown option.
            self._say_if_a_setting(getattr(error, "option_name", None) or "")
            raise
        _, _, found = self.make_parser(ctx).parse_args(given)
        for option, times in Counter(found).items():
            takes_one = isinstance(option, TyperOption) and not (option.multiple or option.is_flag)
            if takes_one and times > 1:
                raise SettingError(f"{option.opts[0]} takes one value, but is given {times} times; give it once")
        return left

    def _say_if_a_setting(self, option: str) -> None:
        from clbench.suites import OVERRIDABLE

        name = option.lstrip("-").replace("-", "_")
        if name in OVERRIDABLE and any("--set" in parameter.opts for parameter in self.params):
            raise SettingError(f"{name} is a setting, not an option; give it as --set {name}=VALUE")

    def invoke(self, ctx: Any) -> Any:
        """Does what the command does, where the user's home is known."""
        check_home()
        return super().invoke(ctx)


def check_home() -> None:
    """Makes sure that the user's home is known: importing Avalanche or MLflow fails without one, or creates a folder ~.

    Raises:
        SettingError: if neither HOME nor the system's list of users tells it.
    """
    if os.path.expanduser("~") == "~":
        raise SettingError(
            "your home folder is not known, because HOME is not set and the system does not list you; set HOME to a "
            "folder that you may write to"
        )


SuiteOption = Annotated[str, typer.Option("--suite", help="The benchmark; `clbench list` shows all.")]
UriOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow store. Default: MLFLOW_TRACKING_URI, else mlflow.db in this folder."),
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder for HTML and PDF.")]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", help="Folder of run folders to read instead of MLflow.", show_default=False),
]
OutputOption = Annotated[Path, typer.Option(help="Folder that holds a folder per run.")]
# Named twice: to a report it is where to read from.
FromMlflowOption = Annotated[
    str | None,
    typer.Option(
        "--from-mlflow",
        "--tracking-uri",
        help="MLflow store to read; its artifacts are all it takes. Default: MLFLOW_TRACKING_URI, else mlflow.db in "
        "this folder.",
    ),
]
SuitesOption = Annotated[
    list[str], typer.Option("--suite", help="The benchmark; `clbench list` shows all. Repeatable.")
]
TemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--template",
        help="Folder with report.html.j2, style.css, script.js or report.typ of your own, to be used instead of ours.",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    list[str] | None, typer.Option("--seeds", help="Such as 0-2 or 0,3,5. Repeatable. Default: the suite's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: epochs=2, clnp.margin=0.5. Repeat for more. Recorded as modified."),
]

DataRootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data. Default: CLBENCH_DATA, else the user's cache folder.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never download.")]
PrecisionOption = Annotated[str, typer.Option(help="float32, bfloat16 (training under autocast), or auto: float32.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's.")]
JobsOption = Annotated[
    int,
    typer.Option(min=1, help="Runs to train at once, each in a process of its own; on a CPU together with --threads."),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option("--executor", help="slurm: submit workers and return. ray: train on a Ray cluster. Default: here."),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Jobs of Slurm, or runs at once on Ray. Default: 1, or all that fit.")
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", help="Options of the jobs: partition=gpu,gpus_per_node=1,timeout_min=240,mem_gb=16. Repeatable."
    ),
]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="A cluster of Ray: auto or HOST:PORT. Default: one on this machine.")
]
GpusOption = Annotated[
    float | None, typer.Option("--gpus-per-run", min=0.0, help="Share of a GPU for each run on Ray, such as 0.25.")
]

QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print warnings and errors only.")]


def as_option(value: Any) -> str:
    """A setting as `--set` takes it."""
    if isinstance(value, tuple | list):
        return str(value[0]) if len(value) == 1 else ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def listed(given: Sequence[str] | None) -> list[str] | None:
    """What a repeatable option names, one by one or with commas between, each once; None where it is not given."""
    if given is None:
        return None
    return list(dict.fromkeys(name.strip() for name in ",".join(given).split(",") if name.strip()))


_MOST_SEEDS = 10_000


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def chosen_seeds(given: Sequence[str] | None) -> list[int] | None:
    """The seeds named on the command line, each once; None for the suite's."""
    if given is None:
        return None
    seeds: list[int] = []
    for part in ",".join(given).split(","):
        first, dash, last = part.strip().partition("-")
        if not (_is_seed(first) and (not dash or _is_seed(last))):
            raise SettingError(
                f"the seeds '{','.join(given)}' cannot be read; expected numbers and ranges such as 0-2 or 0,3,5"
            )
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise SettingError(f"the seed range '{part.strip()}' runs backwards; write {high}-{low}")
        if high - low >= _MOST_SEEDS:
            raise SettingError(f"the seed range '{part.strip()}' has more than {_MOST_SEEDS:,} seeds")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


def chosen_precision(given: str) -> "Precision":
    """The precision of training; `auto` is float32."""
    if given not in ("auto", "float32", "bfloat16"):
        raise SettingError(f"unknown precision '{given}': expected auto, float32 or bfloat16")
    return "bfloat16" if given == "bfloat16" else "float32"


def chosen_executor(
    executor: str | None,
    workers: int | None,
    slurm: Sequence[str] | None,
    address: str | None,
    gpus_per_run: float | None,
    jobs: int,
) -> "Slurm | Ray | None":
    """Where the runs are to be trained; None for this machine.

    Raises:
        SettingError: for an unknown executor, and for options of another.
    """
    given = {"--workers": workers, "--slurm": slurm, "--ray-address": address, "--gpus-per-run": gpus_per_run}
    ours = {None: (), "slurm": ("--workers", "--slurm"), "ray": ("--workers", "--ray-address", "--gpus-per-run")}
    if executor not in ours:
        raise SettingError(f"unknown executor '{executor}': expected slurm or ray; leave it out to train here")
    for option, value in given.items():
        if value is not None and option not in ours[executor]:
            its = " or ".join(name for name, options in ours.items() if name and option in options)
            raise SettingError(
                f"{option} is not for --executor {executor}" if executor else f"{option} needs --executor {its}"
            )
    if executor is not None and jobs > 1:
        raise SettingError(f"--jobs is for this machine; with --executor {executor} give --workers")
    if executor == "slurm":
        from clbench.execution.on_slurm import Slurm

        return Slurm(workers or 1, **_options_of_slurm(slurm or []))
    if executor == "ray":
        from clbench.execution.on_ray import Ray

        return Ray(address, gpus_per_run=gpus_per_run, workers=workers)
    return None


def _number(value: str) -> int | float | str:
    """A number where it looks like one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _options_of_slurm(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in ",".join(given).split(",") if given else ():
        name, sign, value = (part.strip() for part in each.partition("="))
        # A value may hold commas, as node lists do.
        if not sign and found and name:
            last = next(reversed(found))
            found[last] = f"{found[last]},{name}"
            continue
        if not (name and sign and value):
            raise SettingError(f"--slurm takes NAME=VALUE, such as partition=gpu,timeout_min=240, but got '{each}'")
        key = name.replace("-", "_")
        found[key] = _number(value)
    return found


def warn_of_slow_precision(screen: "Screen", precision: str, device: "torch.device") -> None:
    """Warns where the processor has no instructions for the precision."""
    from clbench.estimate import slow_precision

    said = slow_precision(precision, device)
    if said is not None:
        screen.warn(said)
