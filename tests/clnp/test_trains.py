"""How CLNP trains a task: what starts anew, what the norms do, what fine-tuning does and when it is undone."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from clbench.errors import DivergenceError, MethodError
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp.validation import Accuracy


def weights_of(plugin):
    return {name: value.clone() for name, value in plugin.claims.tensors().items()}


@pytest.mark.parametrize(("scale", "initial"), [(1.0, "pytorch"), (0.5, "pytorch"), (0.5, "glorot"), (None, "pytorch")])
def test_before_a_new_task_free_neurons_are_drawn_anew_with_biases_of_0_unless_they_stay(
    scale, initial, small_clnp, monkeypatch
):
    method = small_clnp({"initial_scale": scale, "initial_weights": initial}, n_tasks=2)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    claims, learned, seen = method.clnp.claims, weights_of(method.clnp), []
    enter = CLNPPlugin._enter
    active = claims.active.clone()

    def noting(plugin, strategy, kept):
        seen.append(weights_of(plugin))
        enter(plugin, strategy, kept)

    monkeypatch.setattr(CLNPPlugin, "_enter", noting)
    method.learn(second)
    for name in ("trunk.0", "trunk.2"):
        claimed = claims.rows(name, active)
        weight, bias = (seen[0][f"{name}.{kind}"] for kind in ("weight", "bias"))
        old_weight, old_bias = (learned[f"{name}.{kind}"] for kind in ("weight", "bias"))
        assert old_bias[~claimed].any()
        if scale is None:
            assert torch.equal(weight, old_weight)
            assert torch.equal(bias, old_bias)
            continue
        assert not bias[~claimed].any()
        width = weight.shape[1] ** -0.5 if initial == "pytorch" else (6 / sum(weight.shape)) ** 0.5
        anew, bound = weight[~claimed], scale * width
        assert not torch.isclose(anew, old_weight[~claimed]).any(1).all()
        assert anew.abs().max() <= bound
        assert anew.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert torch.equal(weight[claimed], old_weight[claimed])


class NoteFirstStep(SupervisedPlugin):
    """The weights before and after the first step."""

    def __init__(self, model):
        super().__init__()
        self.layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        self.before, self.after = None, None

    def _weights(self):
        return [layer.weight.detach().clone() for layer in self.layers]

    def before_update(self, strategy, **kwargs):
        self.before = self.before or self._weights()

    def after_update(self, strategy, **kwargs):
        self.after = self.after or self._weights()


def test_the_norms_of_the_weights_move_them_as_they_say(in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    rate, strength = 0.5, 0.01

    def step(**norm):
        torch.manual_seed(0)
        sizes = nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        model = nn.Sequential(nn.Flatten(), *sizes)
        note, clnp = NoteFirstStep(model), CLNPPlugin(**{"l1_weights": 0.0, **norm}, fine_tune_epochs=0)
        strategy = naive_strategy(model, clnp, note, optimizer=torch.optim.SGD(model.parameters(), lr=rate), epochs=1)
        torch.manual_seed(1)
        strategy.train(benchmark.train_stream[0])
        return note

    plain, gradient, proximal = step(), step(l1_weights=strength), step(l1_proximal=strength)
    assert len(plain.after) == 3
    for start, without, along, thresholded in zip(
        plain.before, plain.after, gradient.after, proximal.after, strict=True
    ):
        # The gradient of alpha |w| is alpha sign(w); its proximal operator moves w towards 0 and no further.
        torch.testing.assert_close(along, without - rate * strength * start.sign())
        torch.testing.assert_close(thresholded, without - without.clamp(-rate * strength, rate * strength))
        assert (thresholded == 0).any()


@pytest.mark.parametrize("engine", ["reduced", "dense"])
@pytest.mark.parametrize("norm", ["l1_weights", "l1_proximal"])
def test_the_norm_of_the_weights_spares_what_earlier_tasks_have_claimed(norm, engine, small_clnp):
    method = small_clnp({"l1_weights": 0.0, norm: 0.5}, n_tasks=2, epochs=2)
    method.clnp.options = method.clnp.options.model_copy(update={norm: 0.0})
    method.clnp.engine_name = engine
    first, second = method.workplace.stream.tasks
    method.learn(first)
    claims, before = method.clnp.claims, weights_of(method.clnp)
    of_first = claims.rows("trunk.2", claims.masks[0])
    method.clnp.options = method.clnp.options.model_copy(update={norm: 0.5})
    method.learn(second)
    after = weights_of(method.clnp)["trunk.2.weight"]
    assert torch.equal(after[of_first], before["trunk.2.weight"][of_first])
    # What trains it has made smaller than it was, or was drawn, and than training alone makes it.
    assert after[~of_first].abs().mean() < 0.8 * before["trunk.2.weight"][~of_first].abs().mean()


# -- Fine-tuning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1_weights", "l1_proximal", "l1_activities"])
def test_while_fine_tuning_there_is_no_norm(norm, small_clnp):
    learned = []
    for strength in (0.0, 10.0):
        method = small_clnp({"l1_activities": 1e-6, "fine_tune_share": 0.5}, n_tasks=1)
        plugin, fine_tune = method.clnp, method.clnp._fine_tune

        def stronger(*given, plugin=plugin, fine_tune=fine_tune, strength=strength):
            # Up to here both are the same.
            if norm == "l1_activities":
                plugin._strengths = [strength, strength]
            else:
                plugin._norms._options = plugin.options.model_copy(update={norm: strength})
            fine_tune(*given)

        plugin._fine_tune = stronger
        method.learn(method.workplace.stream.tasks[0])
        learned.append(weights_of(plugin))
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_fine_tuning_changes_what_was_claimed_and_nothing_else(engine, small_clnp):
    method = small_clnp({"fine_tune_share": 0.5}, n_tasks=1)
    method.clnp.engine_name = engine
    before, fine_tune = [], method.clnp._fine_tune

    def remember(strategy, mask):
        before.extend([mask.clone(), weights_of(method.clnp)])
        fine_tune(strategy, mask)

    method.clnp._fine_tune = remember
    method.learn(method.workplace.stream.tasks[0])
    mask, old = before
    new, claims = weights_of(method.clnp), method.clnp.claims
    rows, columns = claims.rows("trunk.2", mask), claims.columns("trunk.2", mask)
    assert not torch.equal(new["trunk.2.weight"][rows], old["trunk.2.weight"][rows])
    assert torch.equal(new["trunk.2.weight"][~rows], old["trunk.2.weight"][~rows])
    assert torch.count_nonzero(new["trunk.2.weight"][rows][:, ~columns]) == 0
    assert torch.count_nonzero(new["head.weight"][:, ~claims.columns("head", mask)]) == 0


def test_fine_tuning_that_costs_accuracy_is_undone(small_clnp):
    method = small_clnp(n_tasks=1)
    # A rate at which no network survives; the setting itself stops at 1.
    method.clnp.options = method.clnp.options.model_copy(update={"fine_tune_rate": 1e4})
    before, fine_tune = [], method.clnp._fine_tune

    def remember(strategy, mask):
        before.append(weights_of(method.clnp))
        fine_tune(strategy, mask)

    method.clnp._fine_tune = remember
    method.learn(method.workplace.stream.tasks[0])
    after = weights_of(method.clnp)
    assert all(torch.equal(after[name], before[0][name]) for name in after)


def test_fine_tuning_that_leaves_the_finite_numbers_is_undone(small_clnp, monkeypatch):
    tuned = []

    class Diverges(SupervisedPlugin):
        """In the midst of fine-tuning, no weight is a number any more."""

        def after_update(self, strategy, **kwargs):
            if method.clnp._phase == "fine-tune":
                for parameter in strategy.model.parameters():
                    parameter.detach().fill_(torch.nan)

    method = small_clnp({"fine_tune_rate": 1.0}, n_tasks=2, epochs=2, observers=[Diverges()])
    fine_tune = CLNPPlugin._fine_tune

    def from_chance(plugin, *arguments):
        # Numbers that are none answer as well as before.
        with monkeypatch.context() as patch:
            patch.setattr(Accuracy, "accuracy", lambda *_: 0.1)
            fine_tune(plugin, *arguments)
        tuned.append(plugin)

    monkeypatch.setattr(CLNPPlugin, "_fine_tune", from_chance)
    method.learn(method.workplace.stream.tasks[0])
    assert tuned == [method.clnp]
    assert all(bool(parameter.isfinite().all()) for parameter in method.model.parameters())


class Watches(SupervisedPlugin):
    """The images that the network was given, by phase."""

    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "fine-tune": [], "idle": []}

    def after_forward(self, strategy, **kwargs):
        self.seen[self.plugin._phase].append(strategy.mb_x.flatten(1).clone())

    def after_eval_forward(self, strategy, **kwargs):
        self.after_forward(strategy)


@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_inputs_are_dropped_while_fine_tuning_and_at_no_other_time(engine, small_clnp):
    watches = Watches()
    method = small_clnp({"fine_tune_dropout": 0.5}, n_tasks=1, observers=[watches])
    watches.plugin, method.clnp.engine_name = method.clnp, engine
    task = method.workplace.stream.tasks[0]
    method.learn(task)
    method.strategy.eval(method.benchmark().test_stream[0])
    seen = watches.seen
    # Rows as they come, however they were shuffled.
    images = {tuple(row) for row in task.train.tensors()[0].flatten(1).tolist()}
    assert all(tuple(row) in images for batch in seen["train"] for row in batch.tolist())
    assert torch.equal(torch.cat(seen["idle"]), task.test.tensors()[0].flatten(1))
    dropped = torch.cat(seen["fine-tune"])
    assert not images & {tuple(row) for row in dropped.tolist()}
    pixels = torch.cat(seen["train"])
    share_kept = (dropped != 0).float().mean() / (pixels != 0).float().mean()
    assert share_kept == pytest.approx(0.5, abs=0.02)
    # What is left is scaled up, so that the mean of an input stays as it was.
    assert dropped.mean() == pytest.approx(float(pixels.mean()), rel=0.05)


class DropsWhile(SupervisedPlugin):
    """The shares that dropout layers drop, by phase; may interrupt once in the midst of fine-tuning."""

    def __init__(self, interrupts):
        super().__init__()
        self.seen, self.interrupts = {"train": set(), "fine-tune": set()}, interrupts

    def after_forward(self, strategy, **kwargs):
        drops = [module.p for module in strategy.model.modules() if isinstance(module, nn.Dropout)]
        self.seen[self.plugin._phase].update(drops)
        if self.interrupts and self.plugin._phase == "fine-tune":
            self.interrupts = False
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupts", [False, True])
@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_a_share_of_the_networks_dropout_stays_while_fine_tuning(engine, interrupts, in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    watches = DropsWhile(interrupts)
    watches.plugin = plugin = CLNPPlugin(fine_tune_dropout_kept=0.25, engine=engine)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 10))
    strategy = naive_strategy(model, plugin, watches, epochs=1)
    if interrupts:
        with pytest.raises(KeyboardInterrupt):
            strategy.train(benchmark.train_stream[0])
        assert model[3].p == 0.4
    strategy.train(benchmark.train_stream[0])
    assert watches.seen == {"train": {0.4}, "fine-tune": {0.1}}
    assert model[3].p == 0.4


def test_a_dropout_that_is_a_function_keeps_all_of_it_or_the_plugin_refuses(in_avalanche, naive_strategy):
    class Drops(nn.Sequential):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.3, self.training)

    benchmark, _ = in_avalanche(1)
    trunk = Drops(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    for engine in ("dense", "reduced"):
        plugin = CLNPPlugin(fine_tune_dropout_kept=0.5, engine=engine)
        strategy = naive_strategy(nn.Sequential(trunk, nn.Linear(64, 10)), plugin, epochs=1)
        if engine == "dense":
            with pytest.raises(MethodError, match="the network drops by a function; make it an"):
                strategy.train(benchmark.train_stream[0])
        else:
            strategy.train(benchmark.train_stream[0])
            assert [*plugin.masks] == [0]


def test_weights_that_are_not_finite_are_said_to_be_and_claim_nothing(in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    plugin = CLNPPlugin()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    strategy = naive_strategy(model, plugin, optimizer=torch.optim.SGD(model.parameters(), lr=1e6), epochs=1)
    with pytest.raises(DivergenceError, match=r"weights of 1, .* that are not finite numbers.* learning rate"):
        strategy.train(benchmark.train_stream[0])
    assert plugin.masks == {}
    assert not plugin.claims.active.any()
