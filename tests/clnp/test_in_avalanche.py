"""CLNP in a plain Avalanche strategy, with Avalanche's own networks, streams and evaluation."""

import itertools

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import MTSimpleMLP, SimpleMLP
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from clbench.errors import MethodError
from clbench.strategies import CLNPPlugin

ENGINES = ["dense", "reduced"]


def mlp(*sizes, bias=True):
    layers = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


NETWORKS = {
    "sequential": lambda: mlp(64, 96, 96, 10),
    "SimpleMLP with dropout": lambda: SimpleMLP(
        num_classes=10, input_size=64, hidden_size=96, hidden_layers=2, drop_rate=0.1
    ),
    "without biases": lambda: mlp(64, 96, 10, bias=False),
    "filters": lambda: nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24 * 16, 48), nn.ReLU(), nn.Linear(48, 10),
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(
    "labels", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["task labels", "one label"]
)
def test_with_its_defaults_nothing_is_forgotten(build, labels, engine, in_avalanche, naive_strategy, evaluated):
    torch.manual_seed(0)
    benchmark, images = in_avalanche(2, labels=labels)
    plugin = CLNPPlugin(engine=engine)
    strategy = naive_strategy(build(), plugin, epochs=3)
    before = []
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        strategy.train(train)
        before.append(evaluated(strategy, test))
    for index, (test, x) in enumerate(zip(benchmark.test_stream, images, strict=True)):
        after = evaluated(strategy, test)
        assert torch.equal(after, before[index])
        with plugin.task(index), torch.no_grad():
            torch.testing.assert_close(strategy.model.eval()(x), after, atol=1e-4, rtol=1e-4)
    assert any(report.new > 0 for report in plugin.reports[1])


@pytest.mark.slow
def test_its_defaults_leave_room_for_four_tasks(in_avalanche, naive_strategy, evaluated):
    torch.manual_seed(0)
    benchmark, _ = in_avalanche(4)
    model = mlp(64, 600, 600, 10)
    strategy = naive_strategy(model, CLNPPlugin(), optimizer=torch.optim.Adam(model.parameters(), lr=0.002))
    for experience in benchmark.train_stream:
        strategy.train(experience)
    for index, experience in enumerate(benchmark.test_stream):
        labels = torch.tensor([int(label) for label in experience.dataset.targets])
        assert float((evaluated(strategy, experience).argmax(1) == labels).float().mean()) > 0.9
        assert all(report.new > 0 for report in strategy.plugins[0].reports[index])


@pytest.mark.parametrize("engine", ENGINES)
def test_each_task_may_have_a_head_of_avalanches_own(engine, in_avalanche, naive_strategy, evaluated, split_digits):
    torch.manual_seed(0)
    benchmark, _ = in_avalanche(2, suite=split_digits)
    strategy = naive_strategy(MTSimpleMLP(input_size=64, hidden_size=96), CLNPPlugin(engine=engine), epochs=4)
    before = []
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        strategy.train(train)
        before.append(evaluated(strategy, test))
    assert torch.equal(evaluated(strategy, benchmark.test_stream[0]), before[0])
    assert strategy.plugins[0].reports[1][0].new > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_evaluating_all_tasks_in_the_midst_of_training_forgets_nothing_and_disturbs_nothing(
    engine, in_avalanche, naive_strategy, evaluated
):
    class SameOrder(SupervisedPlugin):
        """Whoever evaluates in between draws numbers, too."""

        def before_training_epoch(self, strategy, **kwargs):
            torch.manual_seed(strategy.clock.train_exp_epochs)

    benchmark, _ = in_avalanche(2)
    trained = []
    for eval_every in (-1, 1):
        torch.manual_seed(0)
        plugin, before = CLNPPlugin(engine=engine, fine_tune_epochs=0), []
        model = NETWORKS["sequential"]()
        strategy = naive_strategy(model, plugin, SameOrder(), epochs=4, eval_every=eval_every)
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[benchmark.test_stream])
            before.append(evaluated(strategy, benchmark.test_stream[0]))
        assert torch.equal(*before)
        assert plugin.reports[1][0].new > 0
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("output_weights", ["per-task", "shared"])
def test_a_state_saved_beside_the_model_is_learned_on_from_as_if_nothing_had_been_in_between(
    output_weights, engine, in_avalanche, naive_strategy, evaluated
):
    benchmark, images = in_avalanche(2)
    answers = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        plugin = CLNPPlugin(engine=engine, output_weights=output_weights)
        strategy = naive_strategy(mlp(64, 96, 96, 10), plugin, epochs=2)
        torch.manual_seed(1)
        strategy.train(benchmark.train_stream[0])
        if interrupted:
            model = mlp(64, 96, 96, 10)
            model.load_state_dict(strategy.model.state_dict())
            state, plugin = plugin.state_dict(), CLNPPlugin(engine=engine, output_weights=output_weights)
            plugin.load_state_dict(state)
            strategy = naive_strategy(model, plugin, epochs=2)
        torch.manual_seed(2)
        strategy.train(benchmark.train_stream[1])
        assert list(plugin.masks) == [0, 1]
        with torch.no_grad():
            answers.append([plugin.network_of(task)(x) for task, x in enumerate(images)])
        answers[-1] += [evaluated(strategy, experience) for experience in benchmark.test_stream]
    assert all(map(torch.equal, *answers))


def test_validation_data_held_out_by_the_plugin_are_not_trained_on(in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    plugin, seen = CLNPPlugin(validation_share=0.25, fine_tune_epochs=1), []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            self.both = strategy.adapted_dataset, plugin._validation_data

        def after_forward(self, strategy, **kwargs):
            seen.extend(map(tuple, strategy.mb_x.flatten(1).tolist()))

    look = Look()
    experience = benchmark.train_stream[0]
    naive_strategy(NETWORKS["sequential"](), plugin, look, epochs=1).train(experience)
    trained_on, held_out = ({tuple(image[0].flatten().tolist()) for image in part} for part in look.both)
    assert isinstance(plugin._validation_data, AvalancheDataset)
    assert sum(map(len, look.both)) == len(experience.dataset)
    # Class by class, whose shares are rounded.
    assert len(plugin._validation_data) == pytest.approx(len(experience.dataset) / 4, abs=5)
    assert set(seen) == trained_on
    assert len(held_out - trained_on) > 0.95 * len(held_out)


def test_validation_images_may_be_an_experience_of_another_stream(in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    plugin = CLNPPlugin(validation_stream=benchmark.test_stream)
    sizes = []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            sizes.append(len(strategy.adapted_dataset))

    prune = plugin._prune
    plugin._prune = lambda scores, validation, strategy: (
        sizes.append(len(validation.right(None))),
        prune(scores, validation, strategy),
    )[1]
    naive_strategy(NETWORKS["sequential"](), plugin, Look(), epochs=1).train(benchmark.train_stream[0])
    assert sizes == [len(benchmark.train_stream[0].dataset), len(benchmark.test_stream[0].dataset)]


# -- What is refused ---------------------------------------------------------------------------------------------------


def test_a_single_share_of_the_margin_is_for_all_groups_and_three_are_refused_where_there_are_two(
    in_avalanche, naive_strategy
):
    benchmark, _ = in_avalanche(1)
    naive_strategy(NETWORKS["sequential"](), CLNPPlugin(margin_shares=0.5), epochs=1).train(benchmark.train_stream[0])
    strategy = naive_strategy(NETWORKS["sequential"](), CLNPPlugin(margin_shares=[0.3, 0.3, 0.4]), epochs=1)
    with pytest.raises(MethodError, match=r"margin_shares has 3 values for 2 groups of units \(layer_1, layer_2\)"):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize(
    ("said", "build"),
    [
        ("'1' is a LayerNorm; CLNP and HAT take linear layers", lambda: nn.Sequential(
            nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)
        )),
        ("at least one hidden layer", lambda: mlp(64, 10)),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_pruned_is_refused_with_a_reason(said, build, in_avalanche, naive_strategy):
    benchmark, _ = in_avalanche(1)
    strategy = naive_strategy(build(), CLNPPlugin(), epochs=1)
    with pytest.raises(MethodError, match=said):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("part", ["training", "validation"])
def test_images_that_are_no_tensors_are_refused_before_anything_is_trained(part, naive_strategy):
    images = [(Image.new("L", (8, 8)), label % 2) for label in range(40)]

    class Pictures(torch.utils.data.Dataset):
        targets = [label for _, label in images]

        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return images[index]

    # What the evaluation of a data set sees of its images is another matter than what its training does.
    both = (to_tensor, None) if part == "validation" else (None, None)
    data = as_classification_dataset(Pictures(), transform_groups={"train": both, "eval": (None, None)})
    benchmark = dataset_benchmark([data], [data])
    model = SimpleMLP(num_classes=2, input_size=64, hidden_size=16, hidden_layers=1, drop_rate=0)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(MethodError, match=r"images as tensors, but the experience gives PIL\.Image\.Image; .*ToTensor"):
        naive_strategy(model, CLNPPlugin(), epochs=1).train(benchmark.train_stream[0])
    assert all(map(torch.equal, before, model.parameters()))
