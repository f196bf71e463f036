"""Avalanche's plugins and strategies by name: they train, they differ from naive, and they are found and refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench.errors import MethodWarning, SettingError
from clbench.methods.table import AVALANCHE, METHODS, exists, find_method, resolve_settings, working_methods
from clbench.runs.runner import accuracy

SMALL = {"hidden_sizes": [64, 64], "epochs": 4, "batch_size": 32, "learning_rate": 0.003}
NEW_CLASSES = {"avalanche-icarl"}
CHANCE = {"multi": 0.2, "classes": 0.1}


@pytest.fixture
def trained(make_method, make_workplace, split_digits):
    def train(name, head="multi", seed=0, **settings):
        suite = split_digits.model_copy(update={"head": head})
        method = make_method(name, make_workplace(suite, seed=seed, **SMALL), **settings)
        for task in method.workplace.stream.tasks:
            method.learn(task)
        return method

    return train


def accuracies(method):
    return np.array([accuracy(method, task) for task in method.workplace.stream.tasks])


@pytest.mark.parametrize("name", AVALANCHE)
def test_it_differs_from_naive_and_beats_chance(name, trained):
    head = "classes" if name in NEW_CLASSES else "multi"
    method = trained(name, head)
    found, plain = accuracies(method), accuracies(trained("naive", head))
    assert not np.array_equal(found, plain)
    assert found.mean() > 1.5 * CHANCE[head]
    assert not method.resumes
    assert method.extra_state_bytes() is None


@pytest.mark.parametrize("name", [*AVALANCHE, "avalanche-ewc", "avalanche-si"])
def test_it_trains_convolutions(name, make_method, make_workplace, split_digits):
    # Avalanche's SI takes no head per task.
    head = "classes" if name in (*NEW_CLASSES, "avalanche-si") else "multi"
    suite = split_digits.model_copy(update={"head": head, "network_settings": {}})
    small = {"network": "conv", "epochs": 2, "batch_size": 32, "steps_per_epoch": 6}
    method = make_method(name, make_workplace(suite.with_overrides(small)))
    for task in method.workplace.stream.tasks:
        method.learn(task)
        with torch.inference_mode(), method.network_for(task) as network:
            assert network(task.test.tensors()[0]).isfinite().all()
    # Also where Avalanche's loader has taken over.
    assert method.strategy.clock.train_iterations == 2 * 2 * 6


@pytest.mark.parametrize("name", ["avalanche-replay", "avalanche-agem", "avalanche-er-ace"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name, trained):
    first, other, again = (trained(name, seed=seed).model.state_dict() for seed in (0, 1, 0))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_replay_and_distillation_keep_an_earlier_task_better_than_fine_tuning_does(trained):
    before = accuracies(trained("naive"))[0]
    for name in ("avalanche-replay", "avalanche-lwf", "avalanche-der"):
        assert accuracies(trained(name))[0] > before


def test_packnet_keeps_a_task_to_the_bit(make_method, make_workplace, split_digits):
    method = make_method("avalanche-packnet", make_workplace(split_digits, **SMALL))
    first, second = method.workplace.stream.tasks
    images = first.test.tensors()[0]
    answers = []
    for task in (first, second):
        method.learn(task)
        with torch.inference_mode(), method.network_for(first) as network:
            answers.append(network(images).clone())
    assert torch.equal(*answers)


def test_a_single_head_is_trained_without_labels_so_that_distillation_covers_every_class_seen(trained):
    method = trained("avalanche-lwf", "classes")
    (lwf,) = method.method_plugins
    assert dict(lwf.lwf.prev_classes_by_task) == {0: set(range(10))}


def test_settings_have_avalanches_names_and_values(plain):
    assert (
        resolve_settings(plain, "avalanche-lwf", {}).model_dump().items() >= {"alpha": 1.0, "temperature": 2.0}.items()
    )
    assert resolve_settings(plain, "avalanche-replay", {"mem_size": 50}).mem_size == 50
    with pytest.raises(SettingError, match=r"avalanche-der\.mem_size=many does not fit"):
        resolve_settings(plain, "avalanche-der", {"mem_size": "many"})
    with pytest.raises(SettingError, match=r"unknown setting of avalanche-lwf 'strength'.*alpha"):
        resolve_settings(plain, "avalanche-lwf", {"strength": 1})


@pytest.mark.parametrize("name", ["avalanche-no-such", "avalanche-early-stopping", "avalanche-LwF"])
def test_what_is_not_tested_here_is_no_method(name):
    assert not exists(name)
    with pytest.raises(SettingError, match=f"unknown method '{name}'.*avalanche-lwf"):
        find_method(name)


def test_another_plugin_is_two_lines_as_the_page_says(clbench, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "own.md").read_text()
    (code,) = (
        part.partition("```")[0] for part in page.split("```python\n") if "MIRPlugin" in part.partition("```")[0]
    )
    (tmp_path / "mir.py").write_text(code)
    outcome = clbench(tmp_path, "check", "./mir.py:MIR", "--set", "mem_size=100")
    assert outcome.code == 0, outcome.out


@pytest.mark.parametrize("name", ["avalanche-der", "avalanche-er-ace", "avalanche-replay"])
def test_a_memory_is_replayed_from_with_batches_larger_than_it_too(name, make_method, make_workplace, split_digits):
    large = SMALL | {"batch_size": 256}
    found = []
    for each in (name, "naive"):
        method = make_method(each, make_workplace(split_digits, **large))
        for task in method.workplace.stream.tasks:
            method.learn(task)
        found.append([weight.clone() for weight in method.model.parameters()])
    assert not all(map(torch.equal, *found))


def test_a_template_that_trains_on_all_tasks_does(trained):
    before = accuracies(trained("naive"))[0]
    assert accuracies(trained("avalanche-cumulative"))[0] > before


def test_images_that_are_not_augmented_are_said_to_be_so(make_method, make_workplace, split_digits):
    suite = split_digits.model_copy(update={"augmentation": ("crop",), "crop_padding": 1})
    method = make_method("avalanche-replay", make_workplace(suite, **SMALL | {"epochs": 1}))
    first, second = method.workplace.stream.tasks
    with warnings.catch_warnings():
        warnings.simplefilter("error", MethodWarning)
        method.learn(first)
    with pytest.warns(MethodWarning, match="are not augmented"):
        method.learn(second)


def test_all_means_none_of_them():
    found = set(working_methods(pytest.fail))
    assert found >= set(METHODS)
    assert not found & set(AVALANCHE)


@pytest.mark.parametrize(
    ("name", "head", "given", "said"),
    [
        ("avalanche-icarl", "multi", {}, "needs new classes"),
        ("avalanche-icarl", "classes", {"learning_rate_schedule": "plateau"}, "plateau would undo"),
        ("avalanche-packnet", "multi", {"epochs": 1}, "more epochs than its post_prune_epochs, 1, but got 1"),
        ("avalanche-packnet", "multi", {"weight_decay": 0.1}, "weight decay moves"),
        ("avalanche-packnet", "multi", {"learning_rate_schedule": "plateau"}, "plateau would undo"),
        ("avalanche-der", "multi", {"batch_size_mem": 201}, "would replay nothing"),
        ("avalanche-er-ace", "multi", {"mem_size": 9}, "would replay nothing"),
    ],
)
def test_what_one_cannot_do_is_refused_with_a_reason(name, head, given, said, split_digits):
    suite = split_digits.model_copy(update={"head": head})
    assert said in find_method(name).refuses(suite, resolve_settings(suite, name, given))
    assert (
        find_method(name).refuses(suite.model_copy(update={"head": "classes"}), resolve_settings(suite, name, {})) == ""
    )


def test_they_are_run_recorded_and_reported(run, place):
    small = ["--set", "n_tasks=2", "--set", "epochs=2", "--set", "hidden_sizes=64,64"]
    outcome = run(place, methods="naive,avalanche-agem,avalanche-der", small=small)
    assert (outcome.code, outcome.err) == (0, "")
    page = next((place / "clbench-reports").glob("*.html")).read_text()
    assert "not declared" in page
    assert "chaudhry2019agem" in page
