"""From groups of runs to the report's sections; what each holds is in the module of its name."""

from collections.abc import Sequence
from datetime import UTC, datetime

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.departures import OWN_SUITE, is_known
from clbench.reports.analysis.groups import Group, LeftOut, Selection
from clbench.reports.analysis.published import published_results
from clbench.reports.formatting import counted, instant
from clbench.reports.model import Report, Section
from clbench.reports.sections.accuracy import accuracy_section, stream_table
from clbench.reports.sections.against_published import published_section
from clbench.reports.sections.bibliography import bibliography, citation_table
from clbench.reports.sections.capacity import capacity_section
from clbench.reports.sections.costs import costs_section
from clbench.reports.sections.glossary import glossary
from clbench.reports.sections.headline import headline_figure, headline_table, summary
from clbench.reports.sections.inference import judge, standings, statistics_section
from clbench.reports.sections.measures import measures_section
from clbench.reports.sections.provenance import left_out_table, provenance
from clbench.reports.sections.tasks import tasks_section

MODIFIED = "Modified runs: not the suite's setting"
MODIFIED_MARK = "Modified runs. "


def compose(selection: Selection, suite: str) -> Report:
    """The report on a selection that holds at least one group.

    The suite's own runs are its subject and the modified ones a section at the end; where every run is
    modified, these are the subject, and every caption says so.
    """
    own = [group for group in selection.groups if not group.is_modified]
    modified = [group for group in selection.groups if group.is_modified]
    subject = own or modified
    mark = "" if own else MODIFIED_MARK
    runs = [run for group in selection.groups for run in group.runs]
    published = published_results(suite, runs) if own else []
    judgements = judge(subject)

    sections = []
    if tasks := tasks_section(subject):
        sections.append(tasks)
    if published:
        sections.append(published_section(published, own))
    sections.append(accuracy_section(subject, mark))
    if capacity := capacity_section(subject, mark):
        sections.append(capacity)
    if measures := measures_section(subject, mark):
        sections.append(measures)
    sections.append(costs_section(subject, mark))
    sections.append(statistics_section(subject, judgements, mark))
    if own and modified:
        sections.append(_modified_section(modified))
    if selection.left_out:
        sections.append(Section("left-out", "Left out", (), (left_out_table(selection.left_out),)))
    sections.append(Section("provenance", "Provenance", (), provenance(selection.groups)))
    sections.append(Section("glossary", "What the numbers mean", (), (glossary(),)))
    sections.append(Section("cite", "What to cite", (), (citation_table(selection.groups),)))

    settings = subject[0].config.get("suite_settings") or {}
    return Report(
        suite=suite,
        title=str(subject[0].config.get("title") or settings.get("title") or suite),
        dated=newest_end(runs),
        summary=(*summary(suite, subject, mark), *_warnings(suite, bool(own), selection.left_out)),
        headline=(
            headline_figure(subject, "average-accuracy", mark),
            headline_table(subject, standings(subject, judgements), "results", mark),
        ),
        sections=tuple(sections),
        bibliography=bibliography(selection.groups),
    )


def newest_end(runs: Sequence[RecordedRun]) -> datetime:
    """When the newest of the runs ended; the epoch where none says."""
    ends = [end for run in runs if (end := instant(run.ended)) is not None]
    return max(ends, default=datetime.fromtimestamp(0, UTC))


def _warnings(suite: str, has_own: bool, left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    sentences = [] if is_known(suite) else [OWN_SUITE]
    if not has_own:
        sentences.append(
            "Every run found overrides settings, so nothing here is the suite's own result, and published values "
            "are not comparable."
        )
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        sentences.append(f"{counted(len(left_out), 'run')} {verb} in no number: see Left out.")
    return tuple(sentences)


def _modified_section(groups: Sequence[Group]) -> Section:
    return Section(
        "modified",
        MODIFIED,
        (
            "These runs override settings. They enter none of the numbers and figures above, and are not "
            "comparable with published values.",
        ),
        (
            headline_table(groups, {}, "modified-results", MODIFIED_MARK),
            stream_table(groups, "modified-stream", MODIFIED_MARK),
            headline_figure(groups, "modified-average-accuracy", MODIFIED_MARK),
        ),
    )
