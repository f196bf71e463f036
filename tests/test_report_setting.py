"""What a report shows of the network, the images and the tasks, where a run recorded it, and nothing where none did."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clbench.records.format import CAPACITY_COLUMNS, REPLAYED, capacity_table
from clbench.records.reading import RecordedRun
from clbench.records.samples import sample_strip
from clbench.reports import write_report
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.network import network_words
from clbench.reports.compose import compose
from clbench.reports.figures.costs import _settings_of_methods
from clbench.reports.formats.html import render_html
from clbench.reports.formats.pdf import render_pdf
from clbench.reports.formatting import thousands
from clbench.reports.model import Figure, Report, Table
from clbench.reports.sections.costs import _tradeoffs, costs_section
from clbench.suites.files import find_suite

SUITE = "mine"
SETTINGS = {
    "n_tasks": 2,
    "scenario": "split",
    "head": "classes",
    "epochs": 5,
    "network": "resnet18",
    "width": 20,
    "normalise": True,
    "augmentation": ["crop", "flip"],
}
NETWORK = {"name": "resnet18", "parameters": 1_109_240, "image_shape": [3, 32, 32]}
MakeSeeds = Callable[..., list[RecordedRun]]


def report_on(runs: Sequence[RecordedRun]) -> Report:
    return compose(select(runs, SUITE), SUITE)


def environment(report: Report) -> dict[str, str]:
    (table,) = (item for item in report.items if isinstance(item, Table) and item.name == "environment")
    return {row[0].text: row[1].text for row in table.rows}


@pytest.fixture
def with_samples(recorded_seeds: MakeSeeds) -> Callable[..., list[RecordedRun]]:
    """(side, channels, names of tasks) -> runs of two seeds with sample images of random pixels."""

    def make(side: int, channels: int = 3, tasks: Sequence[str] = ("task 1", "task 2")) -> list[RecordedRun]:
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (len(tasks), 8, channels, side, side), dtype=torch.uint8, generator=draw)
        given = {"samples": {"tasks": list(tasks), "per_task": 8, "side": side}}
        runs = recorded_seeds("ewc", 0.9, 0.8, suite=SUITE, suite_settings=SETTINGS, **given)
        return [replace(run, samples=sample_strip(images)) for run in runs]

    return make


def shown_pixels(figure: Figure) -> np.ndarray:
    """The picture that is embedded in the drawing, as RGBA."""
    (data,) = re.findall(r'xlink:href="data:image/png;base64,\s*([^"]+)"', figure.svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


# The network


def test_a_network_is_named_with_its_settings_its_size_and_what_enters_it(recorded_seeds: MakeSeeds) -> None:
    runs = recorded_seeds("ewc", 0.9, 0.8, suite=SUITE, suite_settings=SETTINGS, network=NETWORK)
    report = report_on(runs)
    assert "by the network resnet18 (width 20) with one output layer over all classes; epochs" in report.summary[0]
    assert report.summary[2] == (
        "The network has 1\u202f109\u202f240 parameters and takes images of 3 × 32 × 32 (channels, height, width), "
        "normalised channel by channel, changed at random while training (crop and flip)."
    )
    found = environment(report)
    assert found["Network"] == "resnet18 (width 20)"
    assert found["Parameters"] == "1\u202f109\u202f240"
    assert found["Image size (channels, height, width)"] == "3 × 32 × 32"
    assert "Layers" not in found


def test_networks_that_differ_are_all_named_and_a_recorded_description_is_shown(recorded_seeds: MakeSeeds) -> None:
    wide = {**SETTINGS, "width": 64}
    runs = [
        *recorded_seeds("ewc", 0.9, suite=SUITE, suite_settings=SETTINGS, network={**NETWORK, "layers": "20-40-80"}),
        *recorded_seeds("si", 0.8, suite=SUITE, suite_settings=wide, network={**NETWORK, "parameters": 11}),
    ]
    report = report_on(runs)
    assert "the network resnet18 (width 20) or resnet18 (width 64) with" in report.summary[0]
    assert "has 1\u202f109\u202f240 or 11 parameters" in report.summary[2]
    assert environment(report)["Layers"] == "20-40-80 (1 run); not recorded (1 run)"


def test_of_a_record_that_says_nothing_of_its_network_nothing_is_shown(recorded_seeds: MakeSeeds) -> None:
    report = compose(select(recorded_seeds("ewc", 0.9, 0.8), "permuted-mnist"), "permuted-mnist")
    assert "by a network with hidden layers 20-20 and head not recorded; epochs" in report.summary[0]
    assert len(report.summary) == 2
    assert not {"Network", "Parameters", "Image size", "Stream SHA-256, by seed"} & environment(report).keys()
    assert "tasks" not in [section.name for section in report.sections]


def test_the_digest_of_a_stream_is_shown_once_for_each_seed(recorded_seeds: MakeSeeds) -> None:
    runs: list[RecordedRun] = []
    for method in ("ewc", "si"):
        for run in recorded_seeds(method, 0.9, 0.8):
            runs.append(replace(run, config={**run.config, "stream_sha256": f"{run.seed}{run.seed}" * 32}))
    report = compose(select(runs, "permuted-mnist"), "permuted-mnist")
    assert environment(report)["Stream SHA-256, by seed"] == f"0: {'00' * 32}; 1: {'11' * 32}"


# Sample images


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
def test_sample_images_are_shown_pixel_by_pixel_with_nothing_between_them(
    with_samples: Callable[..., list[RecordedRun]], side: int, channels: int
) -> None:
    runs = with_samples(side, channels, ("cats and dogs", "birds"))
    report = report_on(runs)
    section = report.sections[0]
    (figure,) = section.items
    assert (section.heading, isinstance(figure, Figure)) == ("Tasks", True)
    assert isinstance(figure, Figure)
    assert figure.caption == "Images of each task, a row for each, in the stream of seed 0."
    assert figure.alt == "Rows of 8 sample images, one for each of: cats and dogs, birds."
    assert "image-rendering:pixelated" in figure.svg
    drawn = shown_pixels(figure)
    picture = np.asarray(Image.open(io.BytesIO(runs[0].samples)).convert("RGB"))
    times = drawn.shape[0] // picture.shape[0]
    assert drawn.shape[:2] == (times * picture.shape[0], times * picture.shape[1])
    # Enlarged by whole numbers until no viewer blurs it, and large images not at all.
    assert times * side <= 64 < (times + 1) * (side + 1)
    # Matplotlib may turn a picture upside down, and say so in the drawing.
    upright = drawn if np.array_equal(drawn[::times, ::times, :3][0, 0], picture[0, 0]) else drawn[::-1]
    upright = upright[times // 2 :: times, times // 2 :: times]
    is_gap = np.zeros(picture.shape[:2], dtype=bool)
    is_gap[side :: side + 1, :] = True
    is_gap[:, side :: side + 1] = True
    assert (upright[is_gap][:, 3] == 0).all()
    assert (upright[~is_gap][:, 3] == 255).all()
    np.testing.assert_array_equal(upright[~is_gap][:, :3], picture[~is_gap])


def test_the_page_may_show_the_images_and_the_pdf_holds_them(with_samples: Callable[..., list[RecordedRun]]) -> None:
    report = report_on(with_samples(8))
    page = render_html(report).decode()
    assert "default-src 'none'; img-src data:;" in page
    assert page.count('<image xlink:href="data:image/png;base64,') == 1
    assert 'aria-label="Rows of 8 sample images, one for each of: task 1, task 2."' in page
    without = replace(report, sections=report.sections[1:])
    assert len(render_pdf(report)) > len(render_pdf(without)) + 1000


def test_authors_get_the_images_as_a_drawing(with_samples: Callable[..., list[RecordedRun]], tmp_path: Path) -> None:
    write_report(with_samples(8), SUITE, tmp_path, ("parts",))
    assert "data:image/png" in (tmp_path / SUITE / "figures" / "samples.svg").read_text()
    assert (tmp_path / SUITE / "figures" / "samples.pdf").read_bytes().startswith(b"%PDF")


def test_a_part_of_the_tasks_is_called_a_part(with_samples: Callable[..., list[RecordedRun]]) -> None:
    (figure,) = report_on(with_samples(8, tasks=("task 1",))).sections[0].items
    assert figure.caption.startswith("Images of 1 of the 2 tasks, a row for each")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: {"samples": b"no picture"},
        lambda run: {"samples": run.samples[:100]},
        lambda run: {"config": {**run.config, "samples": {"tasks": ["a", "b", "c"], "per_task": 8, "side": 8}}},
        lambda run: {"config": {**run.config, "samples": {"tasks": [], "per_task": 8, "side": 8}}},
        lambda run: {"config": {**run.config, "samples": {"tasks": ["a", "b"], "per_task": 0, "side": 8}}},
    ],
)
def test_a_picture_that_is_not_what_the_record_says_is_left_out_with_the_reason(
    with_samples: Callable[..., list[RecordedRun]], spoil: Callable[[RecordedRun], dict[str, Any]]
) -> None:
    section = report_on([replace(run, **spoil(run)) for run in with_samples(8)]).sections[0]
    assert section.items == ()
    assert section.paragraphs[0].startswith(
        "The sample images of run ewc0 cannot be shown, because the file is damaged"
    )


def test_every_setting_of_a_network_is_shown_but_not_what_the_record_says_of_its_code() -> None:
    own = {"network_depth": 3, "width": 8, "network_sha256": "ab" * 32, "network_version": "1.0"}
    of_suite = find_suite("split-cifar10").model_dump(exclude={"network_settings"})
    config = {"suite_settings": {**of_suite, "network": "Net", **own}}
    assert network_words(config) == "Net (network depth 3, width 8)"


# What is used of the network


def test_costs_show_core_hours_by_threads_and_gpu_hours_by_shares_of_a_gpu(
    recorded_run: Callable[..., RecordedRun],
) -> None:
    def run(method: str, **config: Any) -> RecordedRun:
        found = recorded_run(method)
        return replace(found, config={**found.config, **config})

    runs = [run("ewc", device="cpu", threads=4, jobs=2), run("naive", device="cuda:1", threads=4, jobs=4)]
    groups = select(runs, runs[0].suite).groups
    (table,) = [item for item in costs_section(groups, "").items if isinstance(item, Table)]
    headings = [column.heading for column in table.columns]
    values = {
        row[0].text: {name: row[headings.index(name)].value for name in ("Core-hours", "GPU-hours")}
        for row in table.rows
    }
    tasks = runs[0].tasks
    hours = (tasks["train_seconds"].sum() + tasks["eval_seconds"].sum()) / 3600
    assert values["ewc"]["Core-hours"] == pytest.approx(4 * hours)
    assert values["naive"]["GPU-hours"] == pytest.approx(hours / 4)
    assert values["ewc"]["GPU-hours"] is None
    assert values["naive"]["Core-hours"] is None
    # Where no run had a GPU there is no column for it.
    (table,) = [
        item for item in costs_section(select(runs[:1], runs[0].suite).groups, "").items if isinstance(item, Table)
    ]
    assert "GPU-hours" not in [column.heading for column in table.columns]


def test_costs_show_how_much_of_the_weights_is_used_and_how_many_images_were_trained_on(
    recorded_run: Callable[..., RecordedRun],
) -> None:
    def run(method: str, share: float, epochs: int = 5) -> RecordedRun:
        rows = [
            {"task": task, "group": "layer_1", "unit": "weight", "units": 100, "free": 90 - 10 * task, "new": 10,
             "reused": 0, "weights_used": share * task, "weights": 100}
            for task in (1, 2)
        ]  # fmt: skip
        found = recorded_run(method)
        settings = {**found.config["method_settings"], "share": share, "epochs": epochs}
        return replace(
            found,
            config={**found.config, "method_settings": settings},
            capacity=capacity_table(rows).reindex(columns=list(CAPACITY_COLUMNS)),
        )

    n_replayed = 50_000.0
    replayed = pd.DataFrame({"task": [1, 2], "name": [REPLAYED] * 2, "value": [0.0, n_replayed]})
    er = replace(recorded_run("er"), measures=replayed)
    runs = [run("wsn", 0.2), run("wsn:less", 0.1), recorded_run("naive"), er]
    groups = select(runs, runs[0].suite).groups
    used = {group.method: group.capacity_used and group.capacity_used.mean for group in groups}
    assert used == {"wsn": pytest.approx(0.4), "wsn:less": pytest.approx(0.2), "naive": None, "er": None}
    section = costs_section(groups, "")
    (table,) = [item for item in section.items if isinstance(item, Table)]
    headings = [column.heading for column in table.columns]
    place = {name: headings.index(name) for name in ("CAP, %", "Images trained on")}
    for row in table.rows:
        expected = {"wsn": "40.0", "wsn:less": "20.0", "naive": "n/a", "er": "n/a"}[row[0].text]
        assert row[place["CAP, %"]].text == expected
        tasks = recorded_run("naive").tasks
        images = (tasks["train_seconds"] * tasks["train_images_per_second"]).sum()
        of_memory = n_replayed if row[0].text == "er" else 0
        assert row[place["Images trained on"]].value == pytest.approx(images + of_memory)
    report = compose(select(runs, runs[0].suite), runs[0].suite)
    said = f"as often as it was used: {thousands(images)} by 3 methods, er {thousands(images + n_replayed)}."
    assert any(sentence.endswith(said) for sentence in report.summary)
    (capacity,) = [section for section in report.sections if section.name == "capacity"]
    beside = next(item for item in capacity.items if isinstance(item, Table))
    shown = [[row[place].text for place in (0, 2, 3, 4)] for row in beside.rows]
    assert sorted(shown) == [["wsn", "40.0", "weights", "70.0"], ["wsn:less", "20.0", "weights", "70.0"]]
    assert len(beside.notes) == 1
    for shares in ("equal", "search"):
        divided = run("packnet", 0.1)
        divided.config["method_settings"]["shares"] = shares
        packed = compose(select([*runs, divided], divided.suite), divided.suite)
        (capacity,) = [section for section in packed.sections if section.name == "capacity"]
        assert next(item for item in capacity.items if isinstance(item, Table)).notes[1:] == (
            "Told beforehand how many tasks come, by which they divide the network: packnet.",
        )
    # Another share in more epochs is no point of the curve, nor is one with another training of the suite's.
    trained_otherwise = run("wsn:other", 0.25)
    trained_otherwise.config["suite_settings"] = {**trained_otherwise.config["suite_settings"], "batch_size": 7}
    runs += [run("wsn:least", 0.15, epochs=20), run("supsup", 0.5), trained_otherwise]
    (panel,) = [each for each in _tradeoffs(select(runs, runs[0].suite).groups) if each.curves]
    ((method, points),) = _settings_of_methods(panel)
    assert method == "wsn"
    assert [cost for cost, _ in points] == pytest.approx([20, 40])
