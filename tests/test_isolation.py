"""Methods that give each task a part of the network: nothing that a task answers changes afterwards, to the bit."""

import copy
import io
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbench.baselines.scores import choose, smallest
from clbench.methods.table import find_method, reason_against, resolve_settings
from clbench.runs.runner import accuracy
from clbench.suites.files import SUITES

learn_noting = runpy.run_path(str(Path(__file__).with_name("noted_steps.py")))["learn_noting"]

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape, n_outputs):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 8, 3)
        self.layer = nn.Linear(8 * 9, 20)
        self.last = nn.Linear(20, n_outputs)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = nn.functional.max_pool2d(self.wide(x).relu(), 2).flatten(1)
        return self.last(self.layer(x).relu())
"""
EXACT = {
    "packnet": {},
    "packnet, drawn": {"restart": "draw", "fine_tune_share": 0.0},
    "packnet, searched": {"shares": "search", "learning_rate_schedule": "plateau"},
    "wsn": {"share": 0.3},
    "wsn, best weights kept": {"share": 0.3, "learning_rate_schedule": "plateau"},
    "supsup": {},
    # As permuted-mnist-small has it.
    "supsup, carried on": {"output_layer": "trained", "scores": "carry", "learning_rate_schedule": "plateau"},
    "single-task": {},
    "frozen-trunk": {},
    "hat": {"binarise": True, "optimizer": "adam", "learning_rate": 0.003, "strength": 0.1},
}
# Momentum and weight decay move weights whose gradient is 0.
PULLS = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "learning_rate": 0.05}


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return f"{path}:Net"


@pytest.fixture
def workplaces(make_workplace, split_digits, net):
    """name -> Workplace of three tasks: every kind of network and of output layer."""
    small = {"n_tasks": 3, "epochs": 2, "batch_size": 32}
    return {
        "layers, one head": lambda: make_workplace(hidden_sizes=[32, 32], **small),
        "layers, a head per task": lambda: make_workplace(
            split_digits, hidden_sizes=[32, 32], classes_per_task=3, **small
        ),
        "an own network, one head": lambda: make_workplace(network=net, **small),
        "an own network, outputs per task": lambda: make_workplace(
            split_digits, network=net, classes_per_task=3, **small
        ),
        "filters": lambda: make_workplace("split-digits", **small),
    }


def logits(method, task):
    with torch.inference_mode(), method.network_for(task) as network:
        return network(task.test.tensors()[0]).clone()


KINDS = [
    "layers, one head",
    "layers, a head per task",
    "an own network, one head",
    "an own network, outputs per task",
    "filters",
]
# Without momentum and decay these stand for all. The others are slow.
STAND_FOR_ALL = {"layers, one head", "filters"}


@pytest.mark.parametrize(
    ("kind", "pulls"),
    [
        *(pytest.param(kind, PULLS, id=f"{kind}-momentum and decay") for kind in KINDS),
        *(
            pytest.param(kind, {}, id=f"{kind}-as it is", marks=[] if kind in STAND_FOR_ALL else pytest.mark.slow)
            for kind in KINDS
        ),
    ],
)
@pytest.mark.parametrize("way", EXACT)
def test_no_bit_of_a_learned_tasks_answers_changes(way, kind, pulls, workplaces, make_method):
    workplace = workplaces[kind]()
    method = make_method(way.partition(", ")[0], workplace, **EXACT[way] | pulls)
    then = []
    for task in workplace.stream.tasks:
        method.learn(task)
        then.append(logits(method, task))
        for earlier, expected in zip(workplace.stream.tasks, then, strict=False):
            assert torch.equal(logits(method, earlier), expected)
    alone = method.network_alone(workplace.stream.tasks[0])
    assert not any("parametrizations" in name for name, _ in alone.named_parameters())


@pytest.mark.parametrize("name", ["packnet", "wsn", "hat", "supsup", "frozen-trunk"])
def test_a_task_keeps_no_more_than_its_slice_of_an_output_layer_that_has_one_for_each(name, workplaces, make_method):
    method = make_method(name, workplaces["an own network, outputs per task"]())
    for task in method.workplace.stream.tasks[:2]:
        method.learn(task)
    kept = {key: tensor.shape for own in method.own.values() for key, tensor in own.items() if ".last." in key}
    sliced = {"network.last.weight": (3, 20), "network.last.bias": (3,)}
    # The outputs of supsup are masked as the hidden layers are.
    assert kept == ({} if name == "supsup" else sliced)


@pytest.mark.parametrize("kind", ["layers, one head", "layers, a head per task", "an own network, outputs per task"])
@pytest.mark.parametrize("way", EXACT)
def test_a_state_goes_on_to_the_same_bits(way, kind, workplaces, make_method):
    whole, first = (make_method(way.partition(", ")[0], workplaces[kind](), **EXACT[way]) for _ in range(2))
    for task in whole.workplace.stream.tasks:
        whole.learn(task)
    for task in first.workplace.stream.tasks[:2]:
        first.learn(task)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    continued = make_method(way.partition(", ")[0], workplaces[kind](), **EXACT[way])
    continued.load_state_dict(torch.load(file, weights_only=True))
    continued.learn(continued.workplace.stream.tasks[2])
    for task in whole.workplace.stream.tasks:
        assert torch.equal(logits(continued, task), logits(whole, task))


def test_hat_as_published_drifts_where_the_binarised_does_not(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[64, 64], epochs=8, batch_size=32)
    first, second = workplace.stream.tasks
    drifts = {}
    for binarise in (False, True):
        method = make_method("hat", workplace, **EXACT["hat"] | {"binarise": binarise, "steepest": 20.0})
        method.learn(first)
        assert method.measures() == {}
        then = logits(method, first)
        method.learn(second)
        drifts[binarise] = float((logits(method, first) - then).abs().max())
        # It says so itself, of some training images.
        said = method.measures()["drift_of_earlier_logits"]
        assert said == drifts[binarise] == 0 if binarise else said == pytest.approx(drifts[False], rel=1)
    assert drifts[True] == 0
    assert drifts[False] > 0


# Scores


@pytest.mark.parametrize("seed", range(20))
def test_the_quick_way_to_a_place_in_an_order_gives_the_same_bits(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(501, generator=generator)
    if seed % 2:
        sizes = (sizes * 8).round() / 8  # many are equal
    place = int(torch.randint(1, 502, (1,), generator=generator))
    exact = sizes.sort().values[place - 1]
    assert smallest(sizes, place) == exact
    for near in (exact, exact * 1.005, exact * 2, torch.tensor(0.0)):
        assert smallest(sizes, place, near) == exact


def test_chosen_weights_and_all_scores_get_the_published_gradients():
    layer = nn.Linear(6, 5)
    plain = copy.deepcopy(layer)
    made = choose(layer, 0.4)
    made.draw(torch.Generator().manual_seed(0))
    mask = made.mask()
    assert int(mask.sum()) == 30 - round(0.6 * 29)
    assert made.scores[mask].abs().min() > made.scores[~mask].abs().max()
    x = torch.randn(7, 6)
    with torch.no_grad():
        plain.weight.mul_(mask)
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    original = layer.parametrizations.weight.original
    assert torch.equal(original.grad, plain.weight.grad * mask)
    assert torch.equal(made.scores.grad, plain.weight.grad * original.detach() * made.scores.sign())


def test_wsns_scores_go_on_from_task_to_task_and_supsups_are_drawn_anew_unless_carried(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=1)
    first, second = workplace.stream.tasks
    overlap = {}
    for name, settings in (("wsn", {}), ("supsup", {}), ("carried", {"scores": "carry"})):
        method = make_method(name.replace("carried", "supsup"), workplace, share=0.3, **settings)
        method.learn(first)
        method.learn(second)
        one, two = (method.mask_of(task, "trunk.0") for task in (0, 1))
        overlap[name] = float((one & two).sum() / one.sum())
    assert overlap["wsn"] > 0.5
    assert overlap["carried"] > 0.5
    assert overlap["supsup"] < 0.45


def test_supsups_weights_are_constants_of_their_layer_with_a_sign_and_never_change(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[32], epochs=1)
    method = make_method("supsup", workplace)
    before = {name: weight.detach().clone() for name, weight in method.weights().items()}
    assert before["trunk.0"].unique().tolist() == pytest.approx([-((2 / 64) ** 0.5), (2 / 64) ** 0.5])
    method.learn(workplace.stream.tasks[0])
    assert all(torch.equal(weight, before[name]) for name, weight in method.weights().items())
    assert accuracy(method, workplace.stream.tasks[0]) > 0.25


@pytest.mark.parametrize("head", ["single", "multi"])
def test_supsups_trained_output_layer_is_every_tasks_own(head, make_workplace, make_method, split_digits):
    workplace = (
        make_workplace(n_tasks=2, hidden_sizes=[64], epochs=2)
        if head == "single"
        else make_workplace(split_digits, n_tasks=2, hidden_sizes=[64], epochs=2)
    )
    method = make_method("supsup", workplace, output_layer="trained")
    outputs = ["heads.0", "heads.1"] if head == "multi" else ["head", "head"]
    assert not {*outputs} & {*method.shared}
    before = method.model.state_dict()["trunk.0.parametrizations.weight.original"].clone()
    starts = method.model.get_submodule(outputs[1]).weight.detach().clone()
    for task in workplace.stream.tasks:
        method.learn(task)
    assert torch.equal(method.model.state_dict()["trunk.0.parametrizations.weight.original"], before)
    first, second = (method.view(task).get_submodule(name) for task, name in enumerate(outputs))
    assert not torch.equal(first.weight, second.weight)
    assert not torch.equal(second.weight, starts)
    assert first.bias.any()
    assert all(accuracy(method, task) > 0.5 for task in workplace.stream.tasks)


# HAT


def test_hats_gates_stand_behind_the_units_and_only_there(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[8, 6], epochs=1)
    method = make_method("hat", workplace)
    method.model.eval()
    e = method.of_tasks.embeddings[0].detach()
    gates = (400 * e).sigmoid()
    x = torch.rand(3, 64)
    first, second, last = (method.model.get_submodule(name) for name in ("trunk.0", "trunk.2", "head"))
    h = F.linear(x, first.weight, first.bias).relu() * gates[:8]
    h = F.linear(h, second.weight, second.bias).relu() * gates[8:]
    torch.testing.assert_close(method.model(x), F.linear(h, last.weight, last.bias))


def test_hats_gradients_are_multiplied_as_published(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[5, 4], epochs=1)
    method = make_method("hat", workplace)
    method.taken = torch.rand(9)
    a = method.taken
    left = method.left()
    for i in range(5):
        assert left["trunk.0.bias"][i] == 1 - a[i]
        assert (left["trunk.0.weight"][i] == 1 - a[i]).all()
    for i in range(4):
        for j in range(5):
            assert left["trunk.2.weight"][i, j] == 1 - min(a[5 + i], a[j])
    assert not any(name.startswith("head") for name in left)


def test_hats_slope_rises_within_each_epoch_and_what_the_gates_take_costs(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=2, batch_size=64)
    method, slopes = make_method("hat", workplace, steepest=50.0), []

    learn_noting(method, workplace.stream.tasks[0], lambda strategy: method.of_tasks.slope, slopes)
    n = len(slopes) // 2
    assert slopes[:n] == slopes[n:]
    assert slopes[0] == 1 / 50
    assert slopes[n - 1] == pytest.approx(50)
    assert slopes == sorted(slopes[:n]) * 2
    used, longer = {}, make_workplace(n_tasks=1, hidden_sizes=[16], epochs=16)
    for strength in (0.0, 5.0):
        costly = make_method("hat", longer, **EXACT["hat"] | {"strength": strength})
        costly.learn(longer.stream.tasks[0])
        used[strength] = costly.capacity()[0]["new"]
    assert used[5.0] < used[0.0]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("supsup", {"initial_weights": "glorot"}, "would change nothing"),
        ("wsn", {"power_alpha": 2.0}, "leave power_alpha out"),
        ("packnet", {"search_drop": 0.1}, "for shares=search"),
        ("anpyc", {"learning_rate_schedule": "plateau"}, "give it linear or constant"),
        ("hat", {"weight_decay": 0.1}, "weight_decay moves what hat protects"),
        ("hat", {"optimizer": "adam"}, "optimizer=adam moves what hat protects"),
        ("classp", {"reference": True, "threshold": 0.1}, "there is no gate"),
        ("gpm", {"optimizer": "adam"}, "only plain sgd follows"),
        ("gpm", {"weight_decay": 0.1}, "only plain sgd follows"),
        ("gpm", {"power_alpha": 2.0}, "only plain sgd follows; leave power_alpha out"),
    ],
)
def test_what_would_change_nothing_or_the_wrong_thing_is_refused(name, settings, said):
    suite = SUITES["permuted-digits"]
    assert said in reason_against(name, suite, resolve_settings(suite, name, settings))


@pytest.mark.parametrize("computed", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("name", ["packnet", "wsn", "supsup", "sor-snn-style", "frozen-trunk", "anpyc", "gpm"])
def test_weights_that_are_computed_are_refused_by_the_name_of_their_layer(name, computed):
    image, settings = torch.zeros(1, 1, 4, 4), resolve_settings(SUITES["permuted-digits"], name, {})
    layers = [nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    assert find_method(name).unfit(nn.Sequential(*layers), image, settings) == ""
    layers[3] = computed(layers[3])
    assert "the layer '3' is computed" in find_method(name).unfit(nn.Sequential(*layers), image, settings)


def test_hat_refuses_what_it_has_no_gate_for():
    image, settings = torch.zeros(1, 2, 8, 8), resolve_settings(SUITES["permuted-digits"], "hat", {"dropout": 0.5})
    depthwise = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(),
                              nn.Linear(64, 3))  # fmt: skip
    assert "'2' is" in find_method("hat").unfit(depthwise, image, settings)
    dropping = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    assert "drops nothing itself" in find_method("hat").unfit(dropping, image, settings)


def test_hats_embeddings_get_the_published_gradient_and_stay_in_bounds(make_workplace, make_method):
    method = make_method("hat", make_workplace(n_tasks=2, hidden_sizes=[5, 4], epochs=1), steepest=50.0)
    (plugin,) = method.method_plugins
    plugin.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)))
    plugin.gates.slope = 2.0
    e = plugin.embedding.detach().clone().double()
    plugin.embedding.grad = torch.ones_like(plugin.embedding)
    plugin.before_update(None)
    expected = 25 * ((2 * e).cosh() + 1) / (e.cosh() + 1)
    torch.testing.assert_close(plugin.embedding.grad.double(), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        plugin.embedding[:2] = torch.tensor([9.0, -9.0])
    plugin.after_update(None)
    assert plugin.embedding[:2].tolist() == [6.0, -6.0]


def test_hats_loss_has_what_the_gates_take_of_what_is_left(make_workplace, make_method):
    method = make_method("hat", make_workplace(n_tasks=2, hidden_sizes=[5, 4], epochs=1), strength=0.3)
    (plugin,) = method.method_plugins
    plugin.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=1)))
    method.taken, plugin.gates.slope = torch.rand(9), 1.5
    strategy = SimpleNamespace(loss=torch.tensor(2.0))
    plugin.before_backward(strategy)
    gates = (1.5 * method.of_tasks.embeddings[1].detach()).sigmoid()
    expected = 2 + 0.3 * sum(float(g * (1 - a)) for g, a in zip(gates, method.taken, strict=True)) / float(
        (1 - method.taken).sum()
    )
    torch.testing.assert_close(strategy.loss.detach(), torch.tensor(expected))
