"""The runs in docs/results against the suites as they are now, and the tables of the documents against the runs."""

import re
import runpy
from pathlib import Path

import pytest

from clbench.records.reading import read_runs
from clbench.records.told import told
from clbench.reports.analysis.departures import departures
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.statistics import estimate
from clbench.reports.formatting import percent
from clbench.reports.verify import verify
from clbench.suites.files import SUITES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
RECORDED = [name for name in SUITES if (RESULTS / name).is_dir() and name != "permuted-digits"]

STATE = ["extra_state_bytes", "optimizer_state_bytes"]


@pytest.fixture(scope="module")
def recorded():
    """By suite, the runs that lie in its folder."""
    return {name: read_runs(RESULTS / name) for name in RECORDED}


@pytest.mark.parametrize("suite", RECORDED)
def test_every_run_is_in_the_setting_that_its_suite_gives_the_method(recorded, suite):
    assert {
        f"{run.method} {run.seed}": departures(run.config) for run in recorded[suite] if departures(run.config)
    } == {}
    assert {run.suite for run in recorded[suite]} == {suite}
    assert not any(run.is_modified for run in recorded[suite])


@pytest.mark.parametrize(
    ("suite", "reached", "missed"),
    [
        ("permuted-mnist", {"single-task", "clnp", "clnp:best", "psp", "ewc"}, {"si", "clnp:10-epochs"}),
        ("permuted-mnist-25", {"clnp:best"}, set()),
    ],
)
def test_the_goals_are_reached_but_for_those_that_the_documents_name(recorded, suite, reached, missed):
    verdicts = [verdict for verdict in verify(recorded[suite], suite).verdicts if verdict.goal]
    assert all(verdict.is_complete for verdict in verdicts)
    assert {verdict.label for verdict in verdicts if not verdict.misses} == reached
    assert {verdict.label for verdict in verdicts if verdict.misses} == missed


def row(group):
    """What the documents say of a method: accuracy, seeds, forgetting, and what is free in the end."""
    accuracy, forgetting = group.metric("average_accuracy"), group.metric("forgetting")
    interval = "" if accuracy.half_width is None else f" ± {percent(accuracy.half_width)}"
    free = "–"
    if len(group.capacity):
        last = group.capacity[group.capacity["task"] == group.capacity["task"].max()]
        free = " / ".join(f"{100 * share:.0f}" for share in last["free"] / last["units"]) + " %"
    forgotten = "–" if forgetting is None else percent(forgetting.mean)
    return percent(accuracy.mean) + interval, str(len(group.runs)), forgotten, free


@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_the_table_of_a_document_is_that_of_the_runs(recorded, document):
    found = re.findall(
        r"^\| `([\w:-]+)`[^|]*\| (\d\d\.\d\d[^|]*) \| (\d+) \|[^|]*\| ([\d.]+) \| ([^|]*) \| ((?:yes|no)[^|]*) \|",
        (ROOT / document).read_text(),
        re.MULTILINE,
    )
    groups = select(recorded["permuted-mnist"], "permuted-mnist").groups
    assert {method: tuple(cells) for method, *cells in found} == {
        group.method: (*row(group), told(group.config)) for group in groups
    }
    # By accuracy, as the report has them.
    assert [method for method, *_ in found] == [group.method for group in groups]


@pytest.mark.parametrize(
    ("document", "suite", "last"),
    [
        ("README.md", "cifar10-cifar100", ""),
        ("README.md", "permuted-mnist-small", r" \| (–|[\d.]+)"),
        ("docs/relatives.md", "permuted-mnist-small", r" \| (–|[\d.]+)"),
    ],
)
def test_a_document_has_every_run_of_a_suite(recorded, document, suite, last):
    """Accuracy, seeds and forgetting, and CAP where the table has it."""
    chooses = r" \| (?:head|network)[a-z ]* \|$"
    found = re.findall(
        rf"^\| `([\w:+-]+)` \| (\d\d\.\d\d[^|]*) \| (\d+) \| (–|[\d.]+) \| (–|-?[\d.]+){last}{chooses}",
        (ROOT / document).read_text(),
        re.MULTILINE,
    )
    groups = select(recorded[suite], suite).groups
    used = [group.capacity_used for group in groups]
    caps = [["–" if cap is None else percent(cap.mean, 1)] if last else [] for cap in used]
    rows = [(group.label, *row(group)[:3], *cap) for group, cap in zip(groups, caps, strict=True)]
    published = {name for name, _, _, shown, *_ in found if shown != "–"}
    assert published >= {each.method for each in SUITES[suite].published}
    assert [(*cells[:3], *cells[4:]) for cells in found] == rows


def test_the_table_of_split_mnist_is_that_of_the_runs(recorded):
    found = re.findall(
        r"^\| `([\w-]+)` \| ([\d.]+ ± [\d.]+) \| (\d) \| ([\d.]+) \| ([\d,]+) \|$",
        (ROOT / "docs" / "relatives.md").read_text(),
        re.MULTILINE,
    )
    expected = []
    for group in select(recorded["split-mnist"], "split-mnist").groups:
        last = group.runs[0].tasks.iloc[-1]
        expected.append((group.label, *row(group)[:3], f"{int(last[STATE].sum()):,}"))
    assert found == expected


def test_the_table_of_margins_and_its_figure_are_of_the_recorded_runs(tmp_path):
    text = (ROOT / "docs" / "cifar.md").read_text()
    expected = {}
    for run in read_runs(RESULTS / "margins"):
        settings, first = run.config["method_settings"], run.capacity[run.capacity["task"] == 1]
        free = first["free"].sum() / first["units"].sum()
        cells = f"{100 * run.accuracy_matrix[1, 0]:.1f}", f"{100 * free:.1f}"
        expected[f"{settings['margin']:g}", settings["fine_tune_share"] > 0] = cells
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    found = {(margin, True): (a, b) for margin, a, b, _, _ in rows} | {(m, False): (c, d) for m, _, _, c, d in rows}
    assert found == expected
    assert len(expected) == 6
    margins = runpy.run_path(str(ROOT / "docs" / "margins.py"))
    margins["main"](tmp_path / "margins.svg")
    assert polylines(tmp_path / "margins.svg") == polylines(ROOT / "docs" / "margins.svg") != []


def test_the_figure_of_accuracy_against_capacity_is_of_the_recorded_runs(tmp_path):
    sparsity = runpy.run_path(str(ROOT / "docs" / "sparsity.py"))
    sparsity["main"](tmp_path / "sparsity.svg")
    assert polylines(tmp_path / "sparsity.svg") == polylines(ROOT / "docs" / "sparsity.svg") != []
    (shown,) = re.findall(
        r"!\[Average accuracy against CAP: (.*)\]\(sparsity.svg\)", (ROOT / "docs/relatives.md").read_text()
    )
    groups, expected = select(read_runs(RESULTS / "sparsity"), "permuted-digits").groups, []
    for method in sparsity["SETTINGS"]:
        points = [sparsity["of_group"](group) for group in groups if group.method == method]
        _, used, accuracy = zip(*points, strict=True)
        expected.append(
            f"{method} {min(accuracy):.1f} to {max(accuracy):.1f} % at {min(used):.0f} to {max(used):.0f} %"
        )
    assert shown.split(", ") == expected


def polylines(path):
    """The paths that a drawing consists of, whatever version of matplotlib wrote the rest."""
    return re.findall(r'<path d="([^"]*)" clip-path', path.read_text())


@pytest.mark.parametrize(
    ("suite", "missed"),
    [
        (
            "cifar10-cifar100",
            {"clnp:budget": ["The goal was more than both intervals", "was not to lie below `packnet`. It is missed"]},
        ),
        ("split-cifar100-10-short", {"clnp:budget": ["The goal was not to lie below"]}),
    ],
)
def test_the_goals_missed_on_cifar_are_those_that_the_document_names(recorded, suite, missed):
    verdicts = verify(recorded[suite], suite).verdicts
    assert {verdict.label for verdict in verdicts if verdict.misses} == missed.keys()
    assert all(sentence in section(suite) for said in missed.values() for sentence in said)


CIFAR = {"cifar10-cifar100": "## CIFAR-10, then CIFAR-100", "split-cifar100-10-short": "## Split CIFAR-100, ten tasks"}


def section(suite):
    """The part of docs/cifar.md that is about a suite."""
    _, text = (ROOT / "docs" / "cifar.md").read_text().split(CIFAR[suite])
    return text.split("\n## ")[0]


@pytest.mark.parametrize("suite", CIFAR)
def test_the_rows_of_a_table_of_cifar_are_the_recorded_runs(recorded, suite):
    """By method and seed, the accuracies by task, where a row has them, and their mean; and that after learning."""
    pattern = r"^\| `([\w:+-]+)`(?:, seed (\d))?(, [^|]*)? \| ([\d. ]*?) ?\| (\d\d\.\d\d) \| (\d\d\.\d\d|–) \|$"
    found = re.findall(pattern, section(suite), re.MULTILINE)
    # Beside the suite's own runs there may be some in another setting.
    elsewhere = [run for run in read_runs(RESULTS / "earlier") if run.suite == suite]
    expected = {}
    for run in [*elsewhere, *recorded[suite]]:
        last, learned = 100 * run.accuracy_matrix[-1], 100 * run.accuracy_matrix[1:].diagonal()
        cells = " ".join(f"{accuracy:.1f}" for accuracy in last), f"{last.mean():.2f}", f"{learned.mean():.2f}"
        expected.setdefault((run.method, run.seed), []).append(cells)
    for method, seed, _, by_task, mean, learned in found:
        runs = expected[method, int(seed or 0)]
        if suite == "cifar10-cifar100":
            # The last column is what was published.
            assert (by_task, mean) in [cells[:2] for cells in runs], (method, seed)
        else:
            assert (by_task or runs[-1][0], mean, learned) in runs, (method, seed)
    shown = [(method, int(seed or 0), mean) for method, seed, _, _, mean, _ in found]
    assert {(run.method, run.seed, f"{(100 * run.accuracy_matrix[-1]).mean():.2f}") for run in recorded[suite]} <= {
        *shown
    }
    assert len(shown) == len({*shown})


def test_the_gain_by_task_over_a_network_of_its_own_is_that_of_the_runs(recorded):
    groups = {group.label: group for group in select(recorded["cifar10-cifar100"], "cifar10-cifar100").groups}
    ours, alone = (groups[name].matrices[:, -1].mean(0) for name in ("clnp:budget", "single-task"))
    (cells,) = re.findall(r"^\| mean of three seeds, points \| (.*) \|$", section("cifar10-cifar100"), re.MULTILINE)
    assert cells.split(" | ") == [f"{gain:.1f}" for gain in 100 * (ours - alone)]
    assert len(groups["clnp:budget"].runs) == len(groups["single-task"].runs) == 3


def test_the_table_of_powerpropagation_is_of_the_recorded_runs():
    found: dict[str, dict[float, list[float]]] = {}
    for run in read_runs(RESULTS / "power"):
        settings = run.config["method_settings"]
        if run.method == "clnp":
            continue
        of_alpha = found.setdefault(f"{settings.get('power_alpha', 1.0):g}", {})
        of_alpha.setdefault(settings["shares"], []).append(run.accuracy_matrix[-1, 0])
    expected = {}
    for alpha, by_share in found.items():
        means = [estimate(by_share[share]) for share in sorted(by_share)]
        expected[alpha] = [f"{percent(mean.mean)} ± {percent(mean.half_width)}" for mean in means]
    text = (ROOT / "docs" / "relatives.md").read_text()
    rows = re.findall(
        r"^\| (\d) \| ([\d.]+ ± [\d.]+) \| ([\d.]+ ± [\d.]+) \| ([\d.]+ ± [\d.]+) \|$", text, re.MULTILINE
    )
    assert {alpha: cells for alpha, *cells in rows} == expected
    assert len(expected) == 3


def test_the_table_of_powerpropagation_with_clnp_is_of_the_recorded_runs():
    found: dict[str, list] = {}
    for run in read_runs(RESULTS / "power"):
        if run.method == "clnp":
            found.setdefault(f"{run.config['method_settings'].get('power_alpha', 1.0):g}", []).append(run)
    expected = {}
    for alpha, runs in found.items():
        accuracy = estimate([run.accuracy_matrix[-1, 0] for run in runs])
        free = sum(run.capacity["free"].to_numpy() for run in runs) / len(runs)
        cells = f"{percent(accuracy.mean)} ± {percent(accuracy.half_width)}", " / ".join(f"{n:.0f}" for n in free)
        expected[alpha] = cells
    text = (ROOT / "docs" / "relatives.md").read_text()
    rows = re.findall(r"^\| (\d) \| ([\d.]+ ± [\d.]+) \| (\d+ / \d+) \|$", text, re.MULTILINE)
    assert {alpha: tuple(cells) for alpha, *cells in rows} == expected
    assert len(expected) == 3


def test_the_table_of_the_spiking_network_is_of_the_recorded_runs():
    runs = read_runs(RESULTS / "spiking")
    (group,) = select(runs, "permuted-digits").groups

    def last(name):
        return estimate([float(run.measures.query(f"task == 10 and name == '{name}'")["value"].item()) for run in runs])

    accuracy, change = group.metric("average_accuracy"), group.metric("backward_transfer")
    spikes, energy = last("spikes_per_image"), last("nanojoules_per_image")
    expected = [
        *(f"{percent(value.mean)} ± {percent(value.half_width)}" for value in (accuracy, change)),
        percent(last("synapses_active").mean, 1),
        *(f"{value.mean:,.0f} ± {value.half_width:.0f}" for value in (spikes, energy)),
    ]
    assert f"| {' | '.join(expected)} |" in (ROOT / "docs" / "relatives.md").read_text()
    assert len(runs) == 3
