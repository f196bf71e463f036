"""Tables that say what every number was made with, and which runs entered none."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from clbench import __version__
from clbench.records.identity import left_out
from clbench.records.naming import override_words
from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import VERSIONS_TO_MARK, Group, LeftOut, usual_version, version_of
from clbench.reports.analysis.network import image_size, layers, network_words, parameters
from clbench.reports.formatting import NOT_RECORDED, counted, minute, percent, plain, setting
from clbench.reports.model import Cell, Column, Table

_DIGITS = 12  # of a commit, in a sentence; the table of the environment has it in full


def provenance(groups: Sequence[Group]) -> tuple[Table, ...]:
    """Versions, commit, data and machine; the settings; one row per run; and each command line once."""
    return (
        Table(
            "environment",
            "What the runs were made with",
            (Column("Item", "text", 1), Column("Value", "text", 4)),
            tuple((Cell(item), Cell(value)) for item, value in _environment(groups)),
        ),
        Table(
            "settings",
            "Settings",
            (Column("Of", "text", 1), Column("Settings", "code", 4)),
            tuple((Cell(what), Cell(value)) for what, value in _settings(groups)),
            tuple(_left_out(groups)),
        ),
        *_runs(groups),
    )


def mixtures(group: Group) -> Iterable[str]:
    """Says what differs within a group although no accuracy should depend on it."""
    sources: tuple[tuple[str, Callable[[RecordedRun], object]], ...] = (
        ("commits", lambda run: plain(run.config.get("git_commit"))[:_DIGITS]),
        ("devices, over which its times are averaged", lambda run: run.config.get("device")),
        ("processors or GPUs, over which its times are averaged", lambda run: run.config.get("device_name")),
        ("hosts, over which its times are averaged", lambda run: run.config.get("host")),
        ("numbers of threads, over which its times are averaged", lambda run: run.config.get("threads")),
        ("versions of torch", lambda run: (run.config.get("versions") or {}).get("torch")),
    )
    for what, read in sources:
        found = sorted({plain(read(run)) for run in group.runs})
        if len(found) > 1:
            yield f"{group.label} has runs of {len(found)} {what}: {', '.join(found)}."


def threads_differ(groups: Sequence[Group]) -> Iterable[str]:
    """Says where the runs on a processor of groups that are compared had different numbers of threads."""
    found: dict[int, dict[str, list[int]]] = {}
    for group in groups:
        for run in group.runs:
            threads = run.config.get("threads")
            if str(run.config.get("device")).startswith("cpu") and isinstance(threads, int):
                found.setdefault(threads, {}).setdefault(group.label, []).append(run.seed)
    if len(found) < 2:
        return
    sizes = {group.label: len(group.runs) for group in groups}
    shown = []
    for threads, of_groups in sorted(found.items()):
        whose = [
            label if len(seeds) == sizes[label] else f"{label} seed {' and '.join(map(str, seeds))}"
            for label, seeds in of_groups.items()
        ]
        shown.append(f"{threads} ({', '.join(whose)})")
    yield (
        "Sums on a processor depend on the number of threads, and so may an accuracy; it differs here: "
        f"{', '.join(shown)}."
    )


def images_differ(groups: Sequence[Group]) -> Iterable[str]:
    """Says where groups of one report were trained on other images, which are not compared with each other."""
    found: dict[str, list[str]] = {}
    for group in groups:
        digest = (group.config.get("data") or {}).get("sha256")
        if digest:
            found.setdefault(str(digest)[:16], []).append(group.label)
    if len(found) > 1:
        shown = "; ".join(f"{digest} ({', '.join(labels)})" for digest, labels in found.items())
        yield f"The runs are on different images, and only those on the same are compared. SHA-256: {shown}."


def left_out_table(left_out: Sequence[LeftOut]) -> Table:
    """The runs that no number contains, and why."""
    return Table(
        "left-out",
        "Runs that no number contains",
        (
            Column("Run", "code", 1.5),
            Column("Method", "text", 1.2),
            Column("Seed", width=0.5),
            Column("Status", "text", 0.8),
            Column("Reason", "text", 4),
        ),
        tuple(
            (
                Cell(item.run.run_id),
                Cell(item.run.method, ", ".join(override_words(item.run.config))),
                Cell(str(item.run.seed)),
                Cell(item.run.status),
                Cell(item.reason),
            )
            for item in left_out
        ),
    )


def _runs(groups: Sequence[Group]) -> tuple[Table, Table]:
    """The runs, and the commands they came from: one command makes many runs, and is long."""
    commands = dict.fromkeys(plain(run.config.get("command")) for group in groups for run in group.runs)
    numbers = {command: f"[{number}]" for number, command in enumerate(commands, start=1)}

    def accuracy(run: RecordedRun) -> Cell:
        value = float(run.accuracy_matrix[-1].mean())
        return Cell(percent(value), "", 100 * value)

    runs = Table(
        "runs",
        "Runs",
        (
            Column("Run, commit", "code", 1.75),
            Column("Method", "text", 1.8),
            Column("Seed", width=0.6),
            Column("Accuracy, %", width=1),
            Column("Started (UTC)", "text", 1.5),
            Column("Ended (UTC)", "text", 1.5),
            Column("Command", "text", 0.9),
            Column("Seal", "code", 1.75),
        ),
        tuple(
            (
                Cell(run.run_id, plain(run.config.get("git_commit"))[:_DIGITS]),
                Cell(group.label, plain(run.config.get("precision"))),
                Cell(str(run.seed), "", float(run.seed)),
                accuracy(run),
                Cell(minute(run.started)),
                Cell(minute(run.ended)),
                Cell(numbers[plain(run.config.get("command"))]),
                Cell(run.seal[:16] or "no digests"),
            )
            for group in groups
            for run in group.runs
        ),
        tuple(_run_notes(groups)),
    )
    lines = Table(
        "commands",
        "Command lines",
        (Column("No.", "text", 0.4), Column("Command", "code", 6)),
        tuple((Cell(number), Cell(command)) for command, number in numbers.items()),
    )
    return runs, lines


def _run_notes(groups: Sequence[Group]) -> Iterable[str]:
    """Which runs were made with another version than most, and what the seals say."""
    runs = [run for group in groups for run in group.runs]
    for package in VERSIONS_TO_MARK:
        usual = usual_version(groups, package)
        others = [
            f"{group.label} seed {run.seed} ({version_of(run, package)})"
            for group in groups
            for run in group.runs
            if version_of(run, package) != usual
        ]
        if others:
            yield f"Made with another {package} than {usual}, which most runs have: {', '.join(others)}."
    sealed = [run for run in runs if run.seal]
    if sealed:
        yield (
            "Seal: the first 16 digits of a SHA-256 over the digests of all files of the run folder, which were "
            "checked for this report; clbench verify-run prints it in full and checks more."
        )
    if len(sealed) < len(runs):
        yield (
            f"No digests: {counted(len(runs) - len(sealed), 'run')} recorded by a version that kept none, so nothing "
            "tells whether these files were changed since."
        )


def _environment(groups: Sequence[Group]) -> Iterable[tuple[str, str]]:
    """What the runs ran on; where they differ, every value with the number of its runs."""
    runs = [run for group in groups for run in group.runs]

    def commit(run: RecordedRun) -> str:
        dirty = " with uncommitted changes" if run.config.get("git_dirty") else ""
        return plain(run.config.get("git_commit")) + dirty

    def top(key: str) -> Callable[[RecordedRun], str]:
        return lambda run: plain(run.config.get(key))

    def within(name: str, key: str) -> Callable[[RecordedRun], str]:
        return lambda run: plain((run.config.get(name) or {}).get(key))

    packages = sorted({package for run in runs for package in run.config.get("versions") or {}})
    leading = [name for name in ("clbench", "python", "torch") if name in packages]
    items: list[tuple[str, Callable[[RecordedRun], str]]] = [
        ("Commit", commit),
        ("Data source", within("data", "source")),
        ("Data SHA-256", within("data", "sha256")),
        ("Images to train on, validation included", within("data", "train_images")),
        ("Images to test", within("data", "test_images")),
        *_of_network(runs),
        ("Device", top("device")),
        ("Processor or GPU", top("device_name")),
        ("Precision", top("precision")),
        ("Threads", top("threads")),
        ("Runs at once", lambda run: plain(run.config.get("jobs", 1))),
        ("Host", top("host")),
        *((package, within("versions", package)) for package in dict.fromkeys([*leading, *packages])),
    ]
    for item, read in items:
        counts = sorted(Counter(read(run) for run in runs).items())
        if len(counts) == 1:
            yield item, counts[0][0]
        else:
            yield item, "; ".join(f"{value} ({counted(count, 'run')})" for value, count in counts)
    if streams := _streams(runs):
        yield "Stream SHA-256, by seed", streams
    yield "Report made by", f"clbench {__version__}"


def _of_network(runs: Sequence[RecordedRun]) -> Iterable[tuple[str, Callable[[RecordedRun], str]]]:
    """What the runs recorded of their network, if any did."""
    if any(run.config.get("network") for run in runs):
        yield "Network", lambda run: network_words(run.config)
        if any(layers(run.config) != NOT_RECORDED for run in runs):
            yield "Layers", lambda run: layers(run.config)
        yield "Parameters", lambda run: parameters(run.config)
        yield "Image size (channels, height, width)", lambda run: image_size(run.config)


def _streams(runs: Sequence[RecordedRun]) -> str:
    """The digest of each seed's sequence of tasks; several where its runs had other tasks."""
    found: dict[int, dict[str, None]] = {}
    for run in runs:
        if run.config.get("stream_sha256"):
            found.setdefault(run.seed, {})[run.config["stream_sha256"]] = None
    return "; ".join(f"{seed}: {' or '.join(digests)}" for seed, digests in sorted(found.items()))


def _settings(groups: Sequence[Group]) -> Iterable[tuple[str, str]]:
    """The suite's settings and each method's own, once for all the groups that share them."""
    for name, what in (("suite_settings", "the suite"), ("method_settings", "")):
        shared: dict[str, list[str]] = {}
        for group in groups:
            shared.setdefault(plain(group.config.get(name) or {}), []).append(group.label)
        for number, (settings, labels) in enumerate(shared.items()):
            # The groups with the suite's own setting come first.
            whose = ", ".join(labels)
            yield (f"{what}, for {whose}" if number else what) if what else whose, settings


def _left_out(groups: Sequence[Group]) -> Iterator[str]:
    """What settings that are not listed are; whose, where methods have other values for one."""
    for kind, words in (
        ("suite_settings", "The suite's settings that are not listed"),
        ("method_settings", "Methods' settings that are not listed, where a method has them"),
    ):
        found: dict[str, dict[str, dict[str, None]]] = {}
        for group in groups:
            for run in group.runs:
                for key, value in left_out(run.config)[kind].items():
                    found.setdefault(key, {}).setdefault(setting(value), {})[group.label] = None
        values = [
            f"{key}={value}" + (f" ({', '.join(labels)})" if len(by_value) > 1 else "")
            for key, by_value in sorted(found.items())
            for value, labels in by_value.items()
        ]
        if values:
            yield f"{words}: {', '.join(values)}."
