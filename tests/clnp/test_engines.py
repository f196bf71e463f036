"""Training in place and training in a reduced network: the same within rounding, and each cleans up after itself."""

import copy

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from clbench.networks.mlp import mlp
from clbench.networks.reduced import ReducedNetwork
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp.loop import precision_of
from clbench.strategies.clnp.reduced import Reduced

pytestmark = pytest.mark.filterwarnings("ignore:CLNP has hardly learned")


def neurons(bias=True):
    sizes = [(64, 48), (48, 40), (40, 10)]
    first, second, last = (nn.Linear(*size, bias=bias) for size in sizes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)


def filters():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


OPTIMIZERS = {
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.003),
    "adam and decay": lambda model: torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.1),
    "momentum and decay": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
}
CASES = {
    "adam": (neurons, "adam", {}),
    "momentum and decay": (neurons, "momentum and decay", {}),
    "decay, no biases": (lambda: neurons(bias=False), "adam and decay", {}),
    "shared output weights": (neurons, "adam and decay", {"output_weights": "shared"}),
    "every norm": (neurons, "adam", {"l1_weights": 1e-4, "l1_proximal": 1e-3, "l1_activities": 1e-3}),
    "the effective norm": (neurons, "adam", {"l1_activities": [0.1, 0.3], "activity_norm": "effective"}),
    "by contribution": (neurons, "adam", {"rank": "contribution", "thresholds": "global"}),
    "filters": (filters, "adam and decay", {"l1_activities": 1e-3}),
    "filters with norms of each task": (filters, "momentum and decay", {"batch_norm": "per-task"}),
}


SLOW = {"momentum and decay", "decay, no biases", "the effective norm", "by contribution"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_the_reduced_network_learns_what_the_whole_one_does_with_its_constants_held(case, in_avalanche, naive_strategy):
    build, optimizer, options = CASES[case]
    # In double precision rounding does not grow to where it decides which units go.
    benchmark, images = in_avalanche(2, dtype=torch.float64)
    trained = []
    for engine in ("dense", "reduced"):
        torch.manual_seed(0)
        model = build().double()
        plugin = CLNPPlugin(margin=2.0, budget=0.5, engine=engine, **options)
        strategy = naive_strategy(model, plugin, optimizer=OPTIMIZERS[optimizer](model), epochs=1)
        for experience in benchmark.train_stream:
            torch.manual_seed(1)
            strategy.train(experience)
        assert strategy.model is model
        trained.append(plugin)
    dense, reduced = trained
    for task, x in enumerate(images):
        assert torch.equal(dense.masks[task], reduced.masks[task])
        assert all(report.new > 0 for report in dense.reports[task])
        with torch.no_grad():
            expected = dense.network_of(task)(x)
            torch.testing.assert_close(reduced.network_of(task)(x), expected, atol=1e-6, rtol=1e-5)
    claims = dense.claims
    for name in claims.units.layers:
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if f"{name}.{kind}" in claims.tensors():
                ours, theirs = (plugin.claims.tensors()[f"{name}.{kind}"] for plugin in trained)
                # What no task has claimed starts anew with the next one.
                rows = claims.rows(name, claims.active) if ours.ndim and name not in claims.units.outputs else ...
                torch.testing.assert_close(ours[rows], theirs[rows], atol=1e-6, rtol=1e-5)


def test_the_optimiser_holds_the_trainable_part_alone_and_the_whole_network_afterwards(
    in_avalanche, naive_strategy, in_the_midst
):
    torch.manual_seed(0)
    model = mlp(64, (12, 10), 10, n_heads=2)
    heads = [parameter for name, parameter in model.named_parameters() if not name.startswith("trunk")]
    optimizer = torch.optim.SGD([{"params": model.trunk.parameters(), "lr": 0.1}, {"params": heads, "lr": 0.2}])
    seen = []

    def look(strategy):
        assert strategy.model is not model
        seen.extend([[sum(map(torch.numel, group["params"])) for group in optimizer.param_groups], active.clone()])

    plugin = CLNPPlugin(engine="reduced", budget=0.5)
    strategy = naive_strategy(model, in_the_midst(look), plugin, optimizer=optimizer, epochs=1)
    benchmark, _ = in_avalanche(2)
    strategy.train(benchmark.train_stream[0])
    active = plugin.claims.active
    whole = [list(group["params"]) for group in optimizer.param_groups]
    strategy.train(benchmark.train_stream[1])
    sizes, was_active = seen
    first, second = (int((~part).sum()) for part in was_active.split([12, 10]))
    assert 0 < first < 12
    # The first task's head has no part in it.
    assert sizes == [first * (64 + 1) + second * (12 + 1), 10 * (10 + 1)]
    for group, parameters in zip(optimizer.param_groups, whole, strict=True):
        assert all(a is b for a, b in zip(group["params"], parameters, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert strategy.model is model
    assert not optimizer.state
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_the_whole_network_answers_in_between_with_what_was_trained_so_far(small_clnp, in_the_midst):
    seen = []

    def look(strategy):
        engine, x = method.clnp._engine, method.workplace.stream.tasks[1].test.tensors()[0]
        reduced = strategy.model
        engine.expect(x)
        answers = [reduced(x)]
        engine.suspend()
        assert strategy.model is method.model
        answers.append(strategy.model(x))
        n_trained = sum(map(torch.numel, strategy.optimizer.param_groups[0]["params"]))
        engine.resume()
        assert strategy.model is reduced
        assert (
            n_trained == sum(map(torch.numel, reduced.parameters())) < sum(map(torch.numel, method.model.parameters()))
        )
        seen.append([*answers, reduced(x)])

    method = small_clnp(n_tasks=2, observers=[in_the_midst(look)])
    for task in method.workplace.stream.tasks:
        method.learn(task)
    ((reduced, whole, again),) = seen
    torch.testing.assert_close(whole, reduced, atol=1e-4, rtol=1e-4)
    assert torch.equal(again, reduced)


# -- Answers of constant neurons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"fine_tune_dropout": 0.2}], ids=["all inputs", "inputs dropped"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_answers_of_frozen_neurons_kept_for_the_task_train_the_same_as_answers_computed_anew(
    precision, options, small_clnp, by_group, monkeypatch
):
    said, kept = [], []
    at_images, leave = ReducedNetwork.at_images, Reduced.leave

    def saying(network, positions):
        said.append(positions)
        at_images(network, positions)

    def leaving(engine):
        if engine.network is not None:
            kept.append([layer.answers is not None for layer in engine.network.layers.values()])
        leave(engine)

    monkeypatch.setattr(ReducedNetwork, "at_images", saying)
    monkeypatch.setattr(Reduced, "leave", leaving)
    trained = {}
    for mib in (0, 1024):
        method = small_clnp({**options, "frozen_cache_mib": mib}, precision=precision, n_tasks=2, epochs=2)
        first, second = method.workplace.stream.tasks
        method.learn(first)
        assert kept == [[False] * 3] * 2
        said.clear()
        kept.clear()
        method.learn(second)
        # In the main phase, and in fine-tuning if it sees whole inputs.
        in_fine_tuning = mib > 0 and not options
        assert kept == [[mib > 0, mib > 0, False], [in_fine_tuning, in_fine_tuning, False]]
        # The main epoch, the measurement of the activity, and fine-tuning.
        n_batches = -(-len(second.train) // 32)
        assert sum(positions is not None for positions in said) == n_batches * (0 if not mib else 2 if options else 3)
        kept.clear()
        trained[mib] = method.clnp.claims.tensors(), by_group(method.clnp, method.clnp.masks[1])
    (computed, masks), (looked_up, same_masks) = trained[0], trained[1024]
    if precision == "float32":
        for name, expected in computed.items():
            torch.testing.assert_close(looked_up[name], expected, atol=1e-5, rtol=0)
        assert all(map(torch.equal, masks, same_masks))
    # Rounded to three digits, batches of another size may move a neuron across the threshold.
    assert all((a != b).sum() <= 3 for a, b in zip(masks, same_masks, strict=True))


def test_what_is_kept_is_looked_up_and_not_computed(small_clnp, in_the_midst):
    def poison(strategy):
        for layer in strategy.model.layers.values():
            if layer.answers is not None:
                weight, bias = layer._constant
                layer._constant, layer._cast = (weight * torch.nan, bias), {}
                poisoned.append(layer)

    trained = []
    for observers in ([], [in_the_midst(poison)]):
        poisoned = []
        method = small_clnp({"fine_tune_share": 0.0}, n_tasks=2, epochs=2, observers=observers)
        for task in method.workplace.stream.tasks:
            method.learn(task)
        trained.append(method.model.state_dict())
    assert len(poisoned) == 2
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_answers_keep_to_their_budget_and_give_way_to_other_images(small_clnp, in_the_midst):
    found = {}

    def look(strategy):
        engine, network = method.clnp._engine, strategy.model
        hidden = list(network.layers.values())[:2]
        n_images = strategy.dataloader.n_images
        first, second = (4 * n_images * layer.n_constant for layer in hidden)
        assert first > second > 0
        for budget in (first + second, first + second - 1, first - 1, second - 1):
            for layer in hidden:
                layer.answers = None
            engine.answer_once(strategy, precision_of(strategy), budget)
            found[budget] = [layer.answers is not None for layer in hidden]
        engine.answer_once(strategy, precision_of(strategy), first + second)
        images, others = strategy.dataloader.resident()[0], torch.rand(5, *strategy.mb_x.shape[1:])
        engine.expect(others)
        of_others, computed = network(others), network(images[:5])
        network.at_images(torch.arange(5))
        torch.testing.assert_close(network(images[:5]), computed, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(network(others), of_others)
        engine.expect(others)
        assert torch.equal(network(others), of_others)

    method = small_clnp({"budget": {"layer_1": 0.5, "layer_2": 0.25}}, n_tasks=2, observers=[in_the_midst(look)])
    for task in method.workplace.stream.tasks:
        method.learn(task)
    assert [*found.values()] == [[True, True], [True, False], [False, True], [False, False]]


class Noise(SupervisedPlugin):
    """Changes the images of every batch, in one of two ways."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.generator = torch.Generator().manual_seed(0)

    def before_training_iteration(self, strategy, **kwargs):
        noise = torch.randn(strategy.mb_x.shape, generator=self.generator) / 2
        if self.in_place:
            strategy.mb_x.add_(noise)
        else:
            strategy.mbatch[0] = strategy.mb_x + noise


@pytest.mark.parametrize("in_place", [True, False])
def test_images_that_another_plugin_changes_are_not_answered_for(in_place, small_clnp):
    trained = []
    for mib in (0, 1024):
        method = small_clnp({"frozen_cache_mib": mib}, n_tasks=2, epochs=2, observers=[Noise(in_place)])
        for task in method.workplace.stream.tasks:
            method.learn(task)
        trained.append(copy.deepcopy(method.model.state_dict()))
    torch.testing.assert_close(trained[0], trained[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("steps", "asked_for"), [(3, False), (100, True)])
def test_a_number_of_steps_below_a_pass_asks_for_no_answers(steps, asked_for, small_clnp, monkeypatch):
    method = small_clnp(n_tasks=2, epochs=1, steps_per_epoch=steps)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    found, leave = [], Reduced.leave

    def leaving(engine):
        if engine.network is not None:
            found.append(any(layer.answers is not None for layer in engine.network.layers.values()))
        leave(engine)

    monkeypatch.setattr(Reduced, "leave", leaving)
    method.learn(second)
    assert found[0] == asked_for
