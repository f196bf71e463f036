"""The speed measurement: what is divided by what, and that it runs; never how fast."""

import json

import pytest
import torch

from clbench import bench as benchmark
from clbench.bench import METHODS, STOCK, Row, as_json, bench, bench_images, bench_table
from clbench.suites import find_suite

CPU = torch.device("cpu")
SMALL = find_suite("permuted-digits").model_copy(update={"hidden_sizes": (16, 16), "batch_size": 64})


@pytest.mark.parametrize("name", [*METHODS, *STOCK])
def test_every_method_is_measured_against_a_bare_loop(name, digits):
    rows = {row.name: row for row in bench(digits, CPU, "float32", [name], repeats=1, suite=SMALL)}
    assert set(rows) == ({"clnp", "clnp-first-task"} if name == "clnp" else {name})
    for row in rows.values():
        assert row.images_per_second > 0
        assert row.shares == (row.share_of_bare_loop,)


def test_the_median_share_and_the_median_rate_count(digits, monkeypatch):
    bare = iter([1.0, 100.0, 50.0, 200.0])  # the first one is warming up
    rates = iter([90.0, 60.0, 100.0])
    monkeypatch.setattr(benchmark, "bare_loop", lambda *args: next(bare))
    monkeypatch.setattr(benchmark, "ours", lambda name, *args: {name: next(rates)})
    (row,) = bench(digits, CPU, "float32", ["naive"], repeats=3, suite=SMALL)
    assert row == Row("naive", 90.0, 0.9, (0.9, 1.2, 0.5))


def test_the_rate_of_a_method_is_that_of_all_its_tasks_and_clnps_first_task_stands_alone(digits, monkeypatch):
    def train(spec, images, device, on_task):
        tasks = [
            {"train_seconds": 1.0, "train_images_per_second": 100.0},
            {"train_seconds": 3.0, "train_images_per_second": 500.0},
        ]
        on_task(type("Result", (), {"tasks": tasks}))

    monkeypatch.setattr(benchmark, "train", train)
    assert benchmark.ours("naive", SMALL, digits, CPU, "float32") == {"naive": 400.0}
    assert benchmark.ours("clnp", SMALL, digits, CPU, "float32") == {"clnp": 400.0, "clnp-first-task": 100.0}


def test_every_method_has_the_epochs_of_the_bare_loop(digits, monkeypatch):
    specs = []

    def train(spec, images, device, on_task):
        specs.append(spec)
        on_task(type("Result", (), {"tasks": [{"train_seconds": 1.0, "train_images_per_second": 1.0}]}))

    monkeypatch.setattr(benchmark, "train", train)
    suite = SMALL.model_copy(update={"epochs": 2, "method_settings": {"si": {"epochs": 20}}})
    for name in METHODS:
        benchmark.ours(name, suite, digits, CPU, "float32")
    assert [spec.settings.epochs for spec in specs] == [2] * len(METHODS)


def test_without_mnist_the_embedded_digits_are_enlarged_to_its_size(tmp_path):
    images = bench_images(tmp_path)
    assert images.source == "digits, enlarged"
    assert images.train_images.shape == (60_000, 1, 28, 28)
    assert images.test_images.shape == (10_000, 1, 28, 28)
    assert images.train_images.dtype == torch.uint8
    assert len(images.train_labels) == 60_000
    assert images.train_labels.unique().tolist() == list(range(10))


def test_the_json_has_a_row_per_method_and_what_it_was_measured_on(digits):
    rows = [Row("naive", 90.0, 0.9, (0.9, 1.2, 0.5))]
    content = json.loads(json.dumps(as_json(rows, digits, CPU, "bfloat16", tasks=2, epochs=1, repeats=3)))
    assert content["rows"] == [
        {"name": "naive", "images_per_second": 90.0, "share_of_bare_loop": 0.9, "shares": [0.9, 1.2, 0.5]}
    ]
    assert content["precision"] == "bfloat16"
    assert content["data"] == "digits"
    assert content["settings"] == {"tasks": 2, "epochs": 1, "repeats": 3}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["threads"] == torch.get_num_threads()


def test_the_table_shows_the_median_and_the_extremes(capsys):
    from rich.console import Console

    Console(width=100).print(bench_table([Row("naive", 1234.0, 0.9, (0.9, 1.2, 0.5))]))
    assert capsys.readouterr().out.splitlines()[1].split() == ["naive", "1,234", "0.90", "0.50", "1.20"]
