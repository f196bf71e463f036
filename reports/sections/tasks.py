"""The section that shows what the tasks look like."""

from collections.abc import Sequence

from clbench.reports import figures
from clbench.reports.analysis.groups import Group
from clbench.reports.formatting import counted
from clbench.reports.model import Figure, Section


def tasks_section(groups: Sequence[Group]) -> Section | None:
    """Sample images of each task, of the first run that has some; None where none has."""
    found = next((run for group in groups for run in group.runs if run.samples and run.config.get("samples")), None)
    if found is None:
        return None
    given = found.config["samples"]
    names, per_task, side = (given.get(key, default) for key, default in (("tasks", []), ("per_task", 0), ("side", 0)))
    try:
        drawing = figures.samples(found.samples, names, per_task=per_task, side=side, name="samples")
    except ValueError as error:
        said = f"The sample images of run {found.run_id} cannot be shown, because the file is damaged: {error}."
        return Section("tasks", "Tasks", (said,))
    n_tasks = found.accuracy_matrix.shape[1]
    of = f"{len(names)} of the {counted(n_tasks, 'task')}" if len(names) < n_tasks else "each task"
    return Section(
        "tasks",
        "Tasks",
        (),
        (
            Figure(
                "samples",
                f"Images of {of}, a row for each, in the stream of seed {found.seed}.",
                f"Rows of {counted(per_task, 'sample image')}, one for each of: {', '.join(names)}.",
                lambda: drawing,
            ),
        ),
    )
