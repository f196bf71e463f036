"""What every method must do, whatever it is."""

from dataclasses import replace

import pytest
import torch

from clbench.check import CHECKS, Toy, learns, trains_on_a_gpu
from clbench.errors import SettingError
from clbench.methods.method import Method
from clbench.methods.settings import TrainingSettings
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.runs.runner import accuracy
from clbench.suites.files import SUITES

SMALL = {"n_tasks": 2, "hidden_sizes": [128, 128], "epochs": 8, "batch_size": 32, "learning_rate": 0.003}
# Accuracy on a task of digits right after learning it; chance is 0.1.
LEARNS_ABOVE = 0.85
# What suits so short a training of so small a network; PSP's learning rate is its authors', for far longer ones.
TOY = {
    "clnp": {"l1_activities": 0.01, "margin": 2.0},
    "ewc": {"strength": 100.0},
    "online-ewc": {"strength": 100.0},
    "mas": {"strength": 0.1},
    "psp": {"learning_rate": 0.002},
    "hat": {"learning_rate": 0.3, "strength": 0.1},
    "gpm": {"learning_rate": 0.2},
    "lwf": {"strength": 0.1},
}
NEW_OPTIMIZER = {
    "clnp",
    "joint",
    "single-task",
    "hat",
    "packnet",
    "wsn",
    "supsup",
    "gpm",
    "sor-snn-style",
    "frozen-trunk",
}
REFUSES_MULTI_HEAD = {"avalanche-si"}
KEEPS_ITS_STATE_ON_THE_CPU = {"avalanche-si"}


def trained(make_method, name, workplace, n_tasks):
    method = make_method(name, workplace, **TOY.get(name, {}))
    for task in workplace.stream.tasks[:n_tasks]:
        method.learn(task)
    return method


def least(name, task):
    """What a method must at least be right on, right after a task."""
    # The features of the first task do not suit others.
    return 0.4 if name == "frozen-trunk" and task.index else LEARNS_ABOVE


def logits(method, task):
    with torch.inference_mode(), method.network_for(task) as network:
        return network(task.test.tensors()[0]).clone()


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_a_toy_stream(name, make_method, make_workplace):
    workplace = make_workplace(**SMALL)
    method = make_method(name, workplace, **TOY.get(name, {}))
    for task in workplace.stream.tasks:
        method.learn(task)
        assert accuracy(method, task) > least(name, task)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_it_holds_what_clbench_check_asks(name, check):
    # A check that fails raises.
    said = check(Toy(name, TOY.get(name, {})))
    if check not in (trains_on_a_gpu, learns):
        assert said


@pytest.mark.parametrize("name", METHODS)
def test_a_kept_optimiser_state_counts_or_is_refused(name, make_method, make_workplace):
    if name in NEW_OPTIMIZER:
        with pytest.raises(SettingError, match=rf"{name}\.reset_optimizer=False"):
            make_method(name, make_workplace(**SMALL), reset_optimizer=False)
        return
    outcomes = []
    for reset in (True, False):
        workplace = make_workplace(**SMALL | {"epochs": 1, "optimizer": "adam"})
        method = make_method(name, workplace, reset_optimizer=reset)
        for task in workplace.stream.tasks:
            method.learn(task)
        outcomes.append(logits(method, workplace.stream.tasks[1]))
    assert not torch.equal(*outcomes)


@pytest.mark.parametrize("name", sorted(set(METHODS) - KEEPS_ITS_STATE_ON_THE_CPU))
def test_a_saved_state_goes_on_on_the_device_that_the_network_is_on(name, make_method, make_workplace):
    small = SMALL | {"epochs": 1}
    extra = {
        key: tensor.cpu()
        for key, tensor in trained(make_method, name, make_workplace(**small), 1).extra_state().items()
    }
    # Stands for a GPU: a device that every machine has and that no tensor of the CPU can be mixed with.
    elsewhere = torch.device("meta")
    continued = make_method(name, replace(make_workplace(**small), device=elsewhere), **TOY.get(name, {}))
    continued.load_extra_state(extra)
    taken = continued.extra_state()
    assert taken.keys() == extra.keys()
    # Positions of images stay where the images are.
    assert {tensor.device for key, tensor in taken.items() if not key.startswith("positions/")} <= {elsewhere}


@pytest.mark.parametrize("name", sorted(set(METHODS) - REFUSES_MULTI_HEAD))
def test_it_trains_a_head_per_task(name, make_method, make_workplace, split_digits):
    workplace = make_workplace(split_digits, hidden_sizes=[128, 128], epochs=8, batch_size=32)
    method = make_method(name, workplace, **TOY.get(name, {}))
    for task in workplace.stream.tasks:
        method.learn(task)
        assert accuracy(method, task) > least(name, task)


@pytest.mark.parametrize("name", sorted(REFUSES_MULTI_HEAD))
def test_it_refuses_a_head_per_task_with_a_reason(name, split_digits):
    for suite, reason in ((split_digits, "multi-head"), (SUITES["permuted-digits"], "")):
        assert reason in find_method(name).refuses(suite, resolve_settings(suite, name, {}))


def test_output_layers_that_the_network_has_for_each_task_are_no_extra_state(split_digits, make_method, make_workplace):
    changes = SMALL | {"epochs": 1, "n_tasks": 2}
    clnp, packnet, hat = (
        trained(make_method, name, make_workplace(split_digits, **changes), 2) for name in ("clnp", "packnet", "hat")
    )
    assert clnp.extra_state_bytes() == 2 * 2 * 128 // 8
    assert hat.extra_state_bytes() == 2 * 4 * 2 * 128
    assert packnet.extra_state_bytes() == 2 * (64 * 128 + 128 * 128) // 8 + 2 * 4 * 2 * 128


@pytest.mark.parametrize("name", METHODS)
def test_its_extra_state_is_counted_in_bytes(name, make_method, make_workplace):
    method = trained(make_method, name, make_workplace(**SMALL | {"epochs": 1}), 2)
    weights = sum(4 * p.numel() for p in method.model.parameters())
    masks = 2 * 2 * 128 // 8 + 2 * 10 * (1 + 128) * 4  # two tasks of two layers of 128 bits, and two output layers
    shared, biases, output = 64 * 128 + 128 * 128, 2 * 128, 10 * (1 + 128)
    memory = 500 * (64 + 8)  # images and their positions
    expected = {
        "naive": 0,
        "joint": 0,
        "psp": 0,
        "clnp": masks,
        "ewc": 2 * weights,
        "online-ewc": 2 * weights,
        "mas": 2 * weights,
        "si": 2 * weights,
        "single-task": weights,
        # An owner among 0 and the tasks.
        "packnet": method.workplace.suite.n_tasks.bit_length() * shared // 8 + 2 * 4 * (biases + output),
        # Its scores go on to the next task.
        "wsn": 2 * shared // 8 + 2 * 4 * (biases + output) + 4 * shared,
        "supsup": 2 * (shared + 10 * 128) // 8,
        # What scores are made of: their base, 16 numbers a row and a column, and as many for each task of the suite.
        "sor-snn-style": 2 * shared // 8
        + 2 * 4 * (biases + output)
        + 4 * (shared + 16 * (64 + 128 + 128 + 128) + 16 * method.workplace.suite.n_tasks),
        "frozen-trunk": 2 * 4 * output,
        "hat": 2 * 4 * (2 * 128 + output),
        "gpm": sum(4 * basis.numel() for basis in getattr(method, "bases", {}).values()),
        "lwf": 0,
        "classp": 0,
        "anpyc": 2 * weights + shared // 8,
        "er": memory,
        "der++": memory + 500 * 10 * 4,
        "avalanche-ewc": 4 * weights,
        "avalanche-si": 7 * weights,
    }
    assert method.extra_state_bytes() == expected[name]


@pytest.mark.parametrize("name", METHODS)
def test_every_suite_has_settings_that_fit_it(name):
    for suite in SUITES.values():
        settings = resolve_settings(suite, name, {})
        assert settings.epochs >= 1
        assert settings.learning_rate > 0
        assert None not in (settings.batch_size, settings.learning_rate_schedule)
        assert getattr(settings, "optimizer", "its own") is not None


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_setting_is_refused_by_name(name):
    with pytest.raises(SettingError, match=r"unknown setting of .* 'no_such': .*expected one of .*epochs"):
        resolve_settings(SUITES["permuted-digits"], name, {"no_such": 1})


@pytest.mark.parametrize("name", METHODS)
def test_its_module_names_its_source_and_its_departures(name):
    import sys

    text = sys.modules[find_method(name).__module__].__doc__
    assert "\nSource:" in text
    assert "\nDeparts from it" in text


def test_settings_that_say_nothing_of_the_optimiser_begin_anew_and_count_none_of_its_state(make_workplace):
    class Own(Method):
        Settings = TrainingSettings

    workplace = make_workplace(**SMALL | {"epochs": 1, "optimizer": "adam"})
    suite = workplace.suite
    settings = TrainingSettings(
        learning_rate=suite.learning_rate, learning_rate_schedule="constant", batch_size=suite.batch_size, epochs=1
    )
    method = Own(settings, workplace)
    method.prepare()
    for task in workplace.stream.tasks:
        method.learn(task)
    steps = {float(state["step"]) for state in method.strategy.optimizer.state.values()}
    # Those of the last task alone.
    assert steps == {-(-len(task.train) // suite.batch_size)}
    assert method.optimizer_state_bytes() == 0
