"""`clbench inspect`: what a run has left, and whether a damaged task can be repaired."""

import pandas as pd
import pytest
import torch

from clbench.data import load_images
from clbench.errors import MethodError, SettingError
from clbench.repair import repair
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite

CHANGES = {
    "n_tasks": 3,
    "hidden_sizes": [64, 64],
    "epochs": 8,
    "batch_size": 32,
    "learning_rate": 0.003,
}
NORMED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape, n_outputs):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 5, 3)
        self.affine = nn.BatchNorm2d(5, affine=False)
        self.last = nn.Linear(5 * 4 * 4, n_outputs)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.last(self.affine(self.plain(x)).relu().flatten(1))
"""
BRANCHES = """
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape, n_outputs):
        super().__init__()
        self.hidden = nn.Linear(64, 16)
        self.one, self.other = nn.Linear(16, n_outputs), nn.Linear(16, n_outputs)

    def forward(self, x):
        x = self.hidden(x.flatten(1)).relu()
        return self.one(x) + self.other(x)
"""
METHODS = {
    "packnet": {},
    "wsn": {},
    "supsup": {},
    "sor-snn-style": {"plasticity": 0.0},
    "hat": {"binarise": True, "optimizer": "adam", "learning_rate": 0.003, "strength": 0.1},
    "clnp": {"budget": "even", "rank": "contribution", "margin": 0.0},
}


@pytest.fixture
def made():
    """(method, share, task) -> what a repair measured."""

    def measure(method, share, task=1, **changes):
        images = load_images("digits")
        given = {f"{method}.{key}": value for key, value in METHODS.get(method, {}).items()}
        suite = find_suite("permuted-digits")
        (spec,) = make_specs(suite, [method], [0], {**CHANGES, **given, **changes}, images, "float32", "cpu")
        return repair(spec, images, torch.device("cpu"), task, share)

    return measure


@pytest.mark.parametrize(
    "method", [name if name in ("packnet", "clnp") else pytest.param(name, marks=pytest.mark.long) for name in METHODS]
)
def test_learning_again_changes_no_bit_of_other_tasks_and_gives_back_what_damage_took(method, made):
    found = made(method, 0.5)
    assert found.moved == 0
    assert found.before > 0.8
    assert found.damaged < found.before
    assert found.repaired > found.damaged
    assert len(found.units) == 2
    for there, hit, then in found.units.values():
        assert hit == round(0.5 * there) > 0
        assert then > 0
    assert found.others_repaired == found.others_damaged


@pytest.mark.slow
def test_what_synapses_of_earlier_tasks_learn_moves_the_answers_for_these(made):
    assert made("sor-snn-style", 0.5, **{"sor-snn-style.plasticity": 0.5}).moved > 0


def test_no_damage_takes_nothing_and_all_of_it_everything(made):
    whole = made("packnet", 0.0)
    assert (whole.damaged, whole.others_damaged) == (whole.before, whole.others_before)
    assert {hit for _, hit, _ in whole.units.values()} == {0}
    assert made("packnet", 1.0).damaged < 0.3
    assert {hit for _, hit, _ in made("packnet", 1e-6).units.values()} == {1}


@pytest.mark.parametrize("name", METHODS)
def test_destroyed_units_are_dead_and_where_all_of_a_unit_is_frozen_they_stay_so(name, make_workplace, make_method):
    workplace = make_workplace(n_tasks=3, hidden_sizes=[24], epochs=2, batch_size=32)
    method = make_method(name, workplace, **METHODS[name])
    first, second, third = workplace.stream.tasks
    method.learn(first)
    method.learn(second)
    units, active = method.units_of(first)
    assert active.any()
    dead = active & (torch.arange(units.n_units) % 2 == 0)
    method.destroy(dead)
    tensors = method.model.state_dict()
    (weight,) = [
        tensors[key] for key in ("trunk.0.weight", "trunk.0.parametrizations.weight.original") if key in tensors
    ]
    assert not weight[dead].any()
    assert weight[~dead].any()
    method.learn(third)
    if name in ("clnp", "hat"):
        assert not weight[dead].any()


def test_packnets_listed_shares_go_on_for_the_task_that_is_learned_again(made):
    found = made("packnet", 0.5, **{"packnet.shares": [0.75, 0.75, 0.75]})
    assert found.moved == 0
    assert found.repaired > found.damaged


@pytest.mark.parametrize("name", METHODS)
def test_destroyed_filters_give_0_behind_their_batch_norm_too(name, make_workplace, make_method, tmp_path):
    (tmp_path / "net.py").write_text(NORMED)
    workplace = make_workplace(n_tasks=2, network=f"{tmp_path}/net.py:Net", epochs=2, batch_size=32)
    method = make_method(name, workplace, **METHODS.get(name, {}))
    first, second = workplace.stream.tasks
    method.learn(first)
    method.learn(second)
    _, active = method.units_of(first)
    method.destroy(torch.ones_like(active))
    for task in (first, second):
        x, _ = task.test.batch(torch.arange(50), device=torch.device("cpu"))
        with torch.inference_mode(), method.network_for(task) as network:
            logits = network(x)
        # What is left are the output layer's biases.
        assert torch.equal(logits, logits[:1].expand_as(logits))


def test_a_masked_methods_unit_is_read_and_reads(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[3, 2], epochs=1)
    method = make_method("wsn", workplace)
    method.learn(workplace.stream.tasks[0])
    masks = method.masks[0]
    masks["trunk.0"].zero_()
    masks["trunk.2"].zero_()
    # Units 0 and 1 of the first layer are entered, 1 and 2 left, and of the second layer unit 1 is entered.
    masks["trunk.0"][:2, 5] = True
    masks["trunk.2"][1, 1:] = True
    assert method.units_of(workplace.stream.tasks[0])[1].tolist() == [False, True, False, False, True]


def test_a_method_without_units_and_a_task_that_is_not_there_are_refused(made):
    with pytest.raises(SettingError, match="naive does not say which units a task uses"):
        made("naive", 0.5)
    with pytest.raises(SettingError, match="the run has tasks 1 to 3, but got --task 4"):
        made("packnet", 0.5, task=4)


def test_a_network_whose_units_cannot_be_followed_is_refused_before_it_is_trained(tmp_path):
    (tmp_path / "net.py").write_text(BRANCHES)
    images, learned = load_images("digits"), []
    changes = {"n_tasks": 2, "epochs": 1, "network": f"{tmp_path}/net.py:Net"}
    (spec,) = make_specs(find_suite("permuted-digits"), ["packnet"], [0], changes, images, "float32", "cpu")
    with pytest.raises(MethodError, match=r"--repair follows units .*outputs"):
        repair(spec, images, torch.device("cpu"), 1, 0.5, on_learned=learned.append)
    assert learned == []


@pytest.mark.long
def test_the_command_shows_what_is_left_and_what_a_repair_gave(clbench, tmp_path):
    changes = ["--set", "n_tasks=2", "--set", "epochs=2", "--set", "hidden_sizes=64,64", "--set", "image_size=6"]
    ran = clbench(tmp_path, "run", "--suite", "permuted-digits", "--methods", "packnet,naive", "--seeds", "0", *changes)
    assert ran.code == 0, ran.err
    ids = {}
    for folder in (tmp_path / "clbench-runs").iterdir():
        if (folder / "config.json").is_file():
            ids["packnet" if '"method": "packnet"' in (folder / "config.json").read_text() else "naive"] = folder.name
    shown = clbench(tmp_path, "inspect", ids["packnet"])
    assert (shown.code, shown.err) == (0, "")
    assert "2 tasks learned; new and reused are of task 2" in shown.out
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[1] == ["group", "of", "in", "all", "used", "free", "free,", "%", "new", "reused"]
    last = pd.read_csv(tmp_path / "clbench-runs" / ids["packnet"] / "capacity.csv").query(
        "task == 2 and group == 'layer_1'"
    )
    (counted,) = last[["units", "used", "free", "new", "reused"]].to_numpy().tolist()
    shown_of_group = [cell.replace(",", "") for cell in rows[2]]
    assert shown_of_group[:2] == ["layer_1", "weights"]
    assert [int(cell) for place, cell in enumerate(shown_of_group[2:]) if place != 3] == counted
    assert "damaged" not in shown.out
    tried = clbench(tmp_path, "inspect", ids["packnet"], "--repair", "0.3", "--task", "2")
    assert tried.code == 0, tried.err
    assert "learning again left the other tasks as they were, to the bit" in tried.out
    assert [f"task {done}/2 learned\n" in tried.out for done in (1, 2)] == [True, True]
    assert "task 2 learned again\n" in tried.out
    for arguments, said in [
        ([ids["naive"], "--repair", "0.3"], "naive does not say which units a task uses"),
        ([ids["packnet"], "--repair", "0.3", "--task", "9"], "the run has tasks 1 to 2, but got --task 9"),
        ([ids["packnet"], "--repair", "0.3", "--task", "0"], "the run has tasks 1 to 2, but got --task 0"),
        ([ids["packnet"], "--repair", "0"], "--repair 0 is no share of units to destroy"),
        ([ids["packnet"], "--task", "2"], "give --repair as well"),
    ]:
        refused = clbench(tmp_path, "inspect", *arguments)
        assert refused.code == 2
        assert said in refused.err
        assert "task 1/2" not in refused.out
    assert "naive counts neither units nor weights" in clbench(tmp_path, "inspect", ids["naive"]).out


@pytest.mark.long
def test_a_network_of_the_users_own_is_repaired_once_it_is_given(clbench, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build(image_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs))\n"
    )
    changes = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "network=./net.py:build"]
    ran = clbench(tmp_path, "run", "--suite", "permuted-digits", "--methods", "packnet", "--seeds", "0", *changes)
    assert ran.code == 0, ran.err
    (folder,) = (tmp_path / "clbench-runs").glob("[0-9a-f]*")
    refused = clbench(tmp_path, "inspect", folder.name, "--repair", "0.3")
    assert refused.code == 2
    assert "the run's network 'build' was a file of yours; give it with --network ./FILE.py:build" in refused.err
    assert "give --repair as well" in clbench(tmp_path, "inspect", folder.name, "--network", "./net.py:build").err
    tried = clbench(tmp_path, "inspect", folder.name, "--repair", "0.3", "--network", "./net.py:build")
    assert tried.code == 0, tried.err
    assert "learning again left the other tasks as they were, to the bit" in tried.out
    assert "in a network planned for 3 tasks" in tried.out
