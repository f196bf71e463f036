"""The speed measurement: what is divided by what, and that it runs; never how fast."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from clbench import bench as benchmark
from clbench.bench import (
    AUGMENTED,
    METHODS,
    STOCK,
    Measured,
    Row,
    as_json,
    bench,
    bench_images,
    bench_suite,
    bench_table,
)
from clbench.data.streams import make_stream
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

CPU = torch.device("cpu")
SMALL = find_suite("permuted-digits").model_copy(
    update={"network_settings": {"hidden_sizes": (16, 16)}, "batch_size": 64}
)


@pytest.mark.parametrize("name", [*METHODS, *STOCK])
def test_every_method_is_measured_against_a_bare_loop(name, digits):
    rows = {row.name: row for row in bench(digits, CPU, "float32", [name], repeats=1, suite=SMALL)}
    assert set(rows) == ({"clnp", "clnp-first-task"} if name == "clnp" else {name})
    for row in rows.values():
        assert row.images_per_second > 0
        assert row.shares == (row.share_of_bare_loop,)
        if row.name == name and name not in STOCK:
            assert 0 < row.evaluation_share < 1
        else:
            assert row.evaluation_share is None
    if name in ("ewc", "si"):
        assert rows[name].state_copies == 2


def test_the_median_share_and_the_median_rate_count(digits, monkeypatch):
    bare = iter([1.0, 80.0, 120.0, 40.0, 260.0])  # the first one is warming up
    rates = iter([Measured(90.0, 0.03, 2.0), Measured(96.0, 0.01, 2.0), Measured(75.0, 0.02, 2.0)])
    monkeypatch.setattr(benchmark, "bare_loop", lambda *args: next(bare))
    monkeypatch.setattr(benchmark, "ours", lambda name, *args: {name: next(rates)})
    said = []
    (row,) = bench(digits, CPU, "float32", ["naive"], repeats=3, suite=SMALL, on_measured=said.append)
    assert said[1] == "naive, 2 of 3: 96 images/s beside the bare loop's 80"
    assert row == Row("naive", 90.0, 100.0, 0.9, (0.9, 1.2, 0.5), 0.02, 2.0)


def task_that_took(seconds, rate):
    return {
        "train_seconds": seconds,
        "train_images_per_second": rate,
        "eval_seconds": seconds / 3,
        "extra_state_bytes": 4 * (8 * 4 + 4),
    }


def test_the_rate_of_a_method_is_that_of_all_its_tasks_and_clnps_tasks_stand_alone(digits, monkeypatch):
    tasks = [task_that_took(1.0, 100.0), task_that_took(3.0, 500.0)]

    def train(spec, images, device, on_task):
        on_task(SimpleNamespace(tasks=tasks))
        return SimpleNamespace(model=nn.Linear(8, 4))

    monkeypatch.setattr(benchmark, "train", train)
    whole = Measured(400.0, 0.25, 1.0)
    assert benchmark.ours("naive", SMALL, digits, CPU, "float32") == {"naive": whole}
    assert benchmark.ours("clnp", SMALL, digits, CPU, "float32") == {"clnp": whole, "clnp-first-task": Measured(100.0)}
    tasks += [task_that_took(2.0, 700.0)]
    rows = benchmark.ours("clnp", SMALL, digits, CPU, "float32")
    assert rows.pop("clnp").rate == 500.0
    assert {name: row.rate for name, row in rows.items()} == {
        "clnp-first-task": 100.0,
        "clnp-second-task": 500.0,
        "clnp-last-task": 700.0,
    }


def test_every_method_has_the_epochs_of_the_bare_loop(digits, monkeypatch):
    specs = []

    def train(spec, images, device, on_task):
        specs.append(spec)
        on_task(SimpleNamespace(tasks=[task_that_took(1.0, 1.0)]))
        return SimpleNamespace(model=nn.Linear(8, 4))

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


def test_other_networks_are_measured_on_noise_of_cifars_size(tmp_path):
    images = bench_images(tmp_path, "conv-zenke")
    assert images.source == "noise"
    assert images.train_images.shape == (50_000, 3, 32, 32)
    assert images.test_images.shape == (1_000, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    assert int(images.train_images.max()) == 255
    assert images.train_labels.bincount().tolist() == [5_000] * 10


def test_where_cifar_lies_it_is_taken_with_a_tenth_of_its_test_images_of_every_class(monkeypatch, digits, tmp_path):
    labels = torch.arange(1000) // 100
    cifar = replace(digits, source="cifar10", test_images=torch.zeros(1000, 1, 8, 8), test_labels=labels)
    monkeypatch.setattr(benchmark, "load_images", lambda *args, **options: cifar)
    images = bench_images(tmp_path, "resnet18")
    assert images.source == "cifar10"
    assert images.test_labels.bincount().tolist() == [10] * 10
    assert len(images.test_images) == 100


def test_the_suite_of_a_network_has_a_single_head_and_as_many_tasks_as_asked_for():
    assert bench_suite("mlp", 7) == find_suite("permuted-mnist").with_overrides({"n_tasks": 7})
    for n_tasks in (1, 6):
        suite = bench_suite("resnet18", n_tasks)
        assert (suite.network, suite.head, suite.n_tasks, suite.batch_size) == ("resnet18", "single", n_tasks, 256)
        assert suite.classes_per_task == 10


def test_every_task_has_a_share_of_all_ten_classes(tmp_path):
    stream = make_stream(bench_suite("conv-zenke", 6), bench_images(tmp_path, "conv-zenke", 6), RandomStreams(0))
    assert len(stream.tasks) == 6
    for task in stream.tasks:
        assert task.train.labels.unique().tolist() == list(range(10))
        assert len(task.train) + len(task.validation) in (8333, 8334)
        assert sorted(task.test.labels.unique().tolist()) == list(range(10))


@pytest.mark.parametrize("steps", [3, 45])
def test_the_bare_loop_takes_as_many_steps_as_the_methods(steps, make_workplace, make_method):
    # A pass over the 1222 training images has 20 batches.
    workplace = make_workplace(SMALL, n_tasks=2, epochs=1, steps_per_epoch=steps)
    taken = []
    counter = register_optimizer_step_post_hook(lambda *args: taken.append(1))
    try:
        benchmark.bare_loop(workplace.stream, workplace.suite, CPU, "float32")
        assert len(taken) == 2 * steps
        method = make_method("naive", workplace)
        for task in workplace.stream.tasks:
            method.learn(task)
    finally:
        counter.remove()
    assert len(taken) == 2 * 2 * steps


def test_naive_with_augmentation_is_naive_but_for_that(digits, monkeypatch):
    specs = []

    def train(spec, images, device, on_task):
        specs.append(spec)
        on_task(SimpleNamespace(tasks=[task_that_took(1.0, 1.0)]))
        return SimpleNamespace(model=nn.Linear(8, 4))

    monkeypatch.setattr(benchmark, "train", train)
    suite = SMALL.model_copy(update={"steps_per_epoch": 3})
    for name in ("naive", AUGMENTED):
        found = benchmark.ours(name, suite, digits, CPU, "float32")
        # Of three steps, testing would be most of the time.
        assert found == {name: Measured(1.0, None, 1.0)}
    plain, augmented = specs
    assert augmented.suite == plain.suite.with_overrides({"augmentation": ["crop", "flip"]})
    assert augmented.settings == plain.settings


def test_the_command_measures_a_network_with_and_without_augmentation(clbench, tmp_path):
    small = ["--network", "conv-zenke", "--steps", "2", "--batch-size", "4", "--tasks", "1", "--repeats", "1"]
    outcome = clbench(tmp_path, "bench", *small, "--data-root", tmp_path, "--out", tmp_path / "b.json")
    assert outcome.code == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["naive", AUGMENTED]
    asked = {"network": "conv-zenke", "steps": 2, "batch_size": 4, "tasks": 1, "epochs": 1, "repeats": 1}
    assert content["settings"] == asked
    assert content["data"] == "noise"


def test_what_cannot_be_measured_is_refused(clbench, assert_refused, tmp_path):
    assert_refused(clbench(tmp_path, "bench", "--network", "resnet19"), "resnet19", "did you mean 'resnet18'")
    assert_refused(clbench(tmp_path, "bench", "--steps", "5", "--with-avalanche"), "number of steps", "--steps")
    assert_refused(clbench(tmp_path, "bench", "--methods", ""), "--methods names none")


def test_the_json_has_a_row_per_method_and_what_it_was_measured_on(digits):
    rows = [Row("naive", 90.0, 100.0, 0.9, (0.9, 1.2, 0.5), 0.03, 0.0)]
    content = json.loads(json.dumps(as_json(rows, digits, CPU, "bfloat16", tasks=2, epochs=1, repeats=3)))
    assert content["rows"] == [
        {
            "name": "naive",
            "images_per_second": 90.0,
            "bare_images_per_second": 100.0,
            "share_of_bare_loop": 0.9,
            "shares": [0.9, 1.2, 0.5],
            "evaluation_share": 0.03,
            "state_copies": 0.0,
        }
    ]
    assert content["precision"] == "bfloat16"
    assert content["data"] == "digits"
    assert content["settings"] == {"tasks": 2, "epochs": 1, "repeats": 3}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["threads"] == torch.get_num_threads()


def test_the_table_shows_the_median_and_the_extremes(capsys):
    from rich.console import Console

    rows = [
        Row("naive", 1234.0, 2000.0, 0.9, (0.9, 1.2, 0.5), 0.034, 2.0),
        Row("clnp-first-task", 1000.0, 1000.0, 1.0, (1.0,)),
    ]
    Console(width=120).print(bench_table(rows))
    whole, part = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert whole == ["naive", "1,234", "2,000", "0.90", "0.50", "1.20", "3.4", "%", "2"]
    assert part == ["clnp-first-task", "1,000", "1,000", "1.00"]  # one measurement has no extremes


@pytest.mark.parametrize("asked", ["all", "naive,avalanche-stock-si"])
def test_avalanches_own_come_after_the_methods_each_once(asked, clbench, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(benchmark, "bench", lambda *args, **options: measured.extend(args[3]) or iter(()))
    assert clbench(tmp_path, "bench", "--methods", asked, "--with-avalanche").code == 0
    assert sorted(measured[-3:]) == sorted(STOCK)
    assert len(set(measured)) == len(measured) > 3


def test_all_methods_are_those_that_can_train_the_network(clbench, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(benchmark, "bench", lambda *args, **options: measured.extend(args[3]) or iter(()))
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, image_shape, n_outputs):\n"
        "        inputs = image_shape[0] * image_shape[1] * image_shape[2]\n"
        "        super().__init__(nn.Flatten(), nn.LayerNorm(inputs), nn.Linear(inputs, n_outputs))\n"
    )
    done = clbench(tmp_path, "bench", "--network", "./net.py:Net", "--methods", "all")
    assert done.code == 0
    assert {"naive", "si", "single-task", "psp"} < set(measured)
    assert not {"ewc", "clnp"} & set(measured)
    assert "ewc is left out: " in done.err


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    clbench, assert_refused, tmp_path, monkeypatch
):
    monkeypatch.setattr(benchmark, "bench", lambda *args, **options: pytest.fail("it measured"))
    for out in (tmp_path, tmp_path / "nowhere" / "b.json"):
        assert_refused(clbench(tmp_path, "bench", "--out", out), str(out), "--out")
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused_with_all_that_can_be_measured(clbench, assert_refused, tmp_path):
    assert_refused(clbench(tmp_path, "bench", "--methods", "avalanche-stock-mas"), *METHODS, *STOCK)
