"""Networks and settings that hypothesis draws: whatever they are, no learned task's logits change by a bit."""

import contextlib
import dataclasses
import json
import runpy
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from hypothesis import event, example, given
from hypothesis import strategies as st

from clbench.data import load_images
from clbench.methods.method import Workplace
from clbench.methods.table import find_method
from clbench.networks.heads import with_heads
from clbench.runs.spec import make_specs
from clbench.seeding import RandomStreams
from clbench.strategies import CLNPPlugin
from clbench.suites.files import find_suite

DRAWN = Path(__file__).with_name("drawn_networks.py")
ACTIVATIONS, Drawn = (runpy.run_path(str(DRAWN))[name] for name in ("ACTIVATIONS", "Drawn"))

pytestmark = pytest.mark.filterwarnings("ignore:CLNP", "ignore:No loggers specified", "ignore:the experiences have")

OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adam with decay": lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    "momentum with decay": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
}


kinds = st.sampled_from(["plain", "plain", "residual", "joined", "depthwise"])
blocks = st.tuples(kinds, st.integers(4, 10), st.integers(1, 3), st.integers(1, 2))
plans = st.fixed_dictionaries(
    {
        "blocks": st.lists(blocks, max_size=3),
        "layers": st.lists(st.integers(4, 20), max_size=2),
        "act": st.sampled_from(sorted(ACTIVATIONS)),
        "pool": st.sampled_from(["none", "max", "mean"]),
        "norm": st.booleans(),
        "affine": st.booleans(),
        "norm of inputs": st.booleans(),
        "bias": st.booleans(),
        "dropout": st.booleans(),
    }
).filter(lambda plan: plan["layers"] or plan["blocks"])

trainings = st.fixed_dictionaries(
    {
        "heads": st.booleans(),
        "head_bias": st.booleans(),
        "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
        "bfloat16": st.booleans(),
        "engine": st.sampled_from(["dense", "reduced"]),
        "tasks": st.integers(2, 3),
        "epochs": st.integers(1, 2),
        "fine_tune_epochs": st.integers(0, 2),
    }
)
options = st.fixed_dictionaries(
    {
        # A wide one prunes everything of a network that has hardly learned.
        "margin": st.sampled_from([0.0, 0.0, 3.0, 10.0]),
        # So small a network is full after one task without.
        "budget": st.sampled_from(["even", 0.3, 0.6, None]),
        "l1_weights": st.sampled_from([0.0, 1e-3]),
    },
    optional={
        "batch_norm": st.just("per-task"),
        "output_weights": st.just("shared"),
        "rank": st.just("contribution"),
        "thresholds": st.just("global"),
        "initial_scale": st.none(),
        "l1_proximal": st.just(0.05),
        "l1_activities": st.just(1e-3),
        "activity_norm": st.just("effective"),
        "fine_tune_dropout": st.just(0.2),
        "fine_tune_dropout_kept": st.just(0.5),
    },
)


def drawn(blocks, layers=(12,), **training):
    """A plan with batch norms and these kinds of blocks, and how to train it."""
    plan = {"blocks": [(kind, 8, 3, 1) for kind in blocks], "layers": layers, "act": "tanh", "pool": "max"}
    plan |= {"norm": True, "affine": True, "norm of inputs": True, "bias": False, "dropout": True}
    usual = {"heads": False, "head_bias": True, "optimizer": "adam with decay", "bfloat16": False, "engine": "dense"}
    return plan, usual | {"tasks": 3, "epochs": 2, "fine_tune_epochs": 1} | training


class Strategy(Naive):
    """Avalanche's, with a precision of its own."""

    bfloat16 = False

    def autocast(self):
        """The context in which training computes."""
        on = self.bfloat16 and self.is_training
        return torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext()

    def forward(self):
        """Logits, in float32."""
        with self.autocast():
            output = super().forward()
        return output.float()


def data_of(n_tasks, heads):
    """100 digits, every task with an order of the pixels of its own."""
    found = load_images("digits")
    x, y = found.train_images[:100].float().flatten(1) / 255, found.train_labels[:100]
    orders = [torch.randperm(64, generator=torch.Generator().manual_seed(task)) for task in range(n_tasks)]
    sets = [
        _make_taskaware_tensor_classification_dataset(
            x[:, order].view(-1, 1, 8, 8), y, task_labels=task if heads else 0
        )
        for task, order in enumerate(orders)
    ]
    return dataset_benchmark(sets, sets), x.view(-1, 1, 8, 8)


@torch.no_grad()
def answers(plugin, model, task, x, heads):
    """Logits of a learned task through the model itself, and through a network of its own."""
    model.eval()
    with plugin.task(task):
        through_model = model(x, task) if heads else model(x)
    return through_model.clone(), plugin.network_of(task)(x)


def check_nothing_is_forgotten(plan, training, given):
    torch.manual_seed(0)
    heads, n_tasks = training["heads"], training["tasks"]
    trunk = Drawn(plan)
    model = with_heads(
        trunk, trunk.n_features, 10, head="multi" if heads else "single", n_tasks=n_tasks, bias=training["head_bias"]
    )
    benchmark, x = data_of(n_tasks, heads)
    if training["engine"] == "dense":
        # The networks drop by functions.
        given = {name: value for name, value in given.items() if name != "fine_tune_dropout_kept"}
    plugin = CLNPPlugin(
        engine=training["engine"],
        fine_tune_epochs=training["fine_tune_epochs"],
        validation_share=0.3,
        n_tasks=n_tasks,
        **given,
    )
    strategy = Strategy(
        model=model,
        optimizer=OPTIMIZERS[training["optimizer"]](model.parameters()),
        plugins=[plugin],
        train_mb_size=15,
        train_epochs=training["epochs"],
        evaluator=EvaluationPlugin(),
    )
    strategy.bfloat16 = training["bfloat16"]
    learned = []
    for task, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        learned.append(answers(plugin, model, task, x, heads))
        for earlier in range(task + 1):
            found = answers(plugin, model, earlier, x, heads)
            for way, now, then in zip(("the model", "its own network"), found, learned[earlier], strict=True):
                assert now.isfinite().all()
                assert torch.equal(now, then), f"after task {task}, task {earlier} changed, seen through {way}"
            torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
    return plugin


more = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])


@pytest.mark.long
@more
def test_no_learned_tasks_logits_change_by_a_bit_whatever_the_network_and_the_training(times, cases):
    claimed = Counter()

    @cases(25, times)
    @example(*drawn(blocks=["plain", "residual"]), {"margin": 0.0, "budget": "even"})
    @example(*drawn(blocks=["joined", "depthwise"], engine="reduced"), {"margin": 0.0, "budget": "even"})
    @example(*drawn(blocks=["joined", "depthwise"], bfloat16=True), {"margin": 0.0, "batch_norm": "per-task"})
    @example(*drawn(blocks=["residual", "plain", "depthwise"], heads=True), {"margin": 0.0, "budget": 0.3})
    @example(*drawn(blocks=["joined"], layers=[], engine="reduced"), {"margin": 0.0, "output_weights": "shared"})
    @example(*drawn(blocks=["joined", "residual"], layers=[]), {"margin": 0.0, "budget": 0.3})
    @given(plans, trainings, options)
    def check(plan, training, given):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plugin = check_nothing_is_forgotten(plan, training, given)
        later = sum(row.new for task, rows in plugin.reports.items() if task for row in rows)
        event("later tasks claimed units" if later else "they claimed none")
        claimed[later > 0] += 1

    check()
    # It would hold trivially if later tasks had changed nothing.
    assert claimed[True] > claimed[False]


IN_OUR_RUNNER = {
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "clnp.weight_decay": 0.1},
    "momentum": {"optimizer": "sgd", "clnp.momentum": 0.9, "learning_rate": 0.1, "clnp.weight_decay": 0.01},
}


def check_nothing_is_forgotten_in_our_runner(images, plan, training, given):
    changes = {"network": f"{DRAWN}:Net", "plan": json.dumps(plan), **training["optimizer"]}
    changes |= {"head": "multi" if training["heads"] else "single", "n_tasks": training["tasks"]}
    changes |= {"batch_size": 15, "epochs": 3, "clnp.fine_tune_share": training["fine_tune_share"]}
    changes |= {"validation_share": 0.3} | {f"clnp.{name}": value for name, value in given.items()}
    precision = "bfloat16" if training["bfloat16"] else "float32"
    (spec,) = make_specs(find_suite("permuted-digits"), ["clnp"], [0], changes, images, precision, "cpu")
    stream = spec.stream(images)
    method = find_method("clnp")(
        spec.settings, Workplace(spec.suite, stream, RandomStreams(0), torch.device("cpu"), precision)
    )
    method.prepare()
    learned = []

    def answers(task):
        with method.network_for(task) as network, torch.no_grad():
            x, _ = task.test.batch(torch.arange(len(task.test)), device=torch.device("cpu"))
            return network(x).clone()

    for task in stream.tasks:
        method.learn(task)
        learned.append(answers(task))
        for earlier in stream.tasks[: task.index + 1]:
            now = answers(earlier)
            assert now.isfinite().all()
            assert torch.equal(now, learned[earlier.index]), f"after task {task.index}, task {earlier.index} changed"
    return method.clnp


@more
def test_nor_do_they_in_our_runner(times, digits, cases):
    images = dataclasses.replace(
        digits,
        train_images=digits.train_images[:150],
        train_labels=digits.train_labels[:150],
        test_images=digits.test_images[:40],
        test_labels=digits.test_labels[:40],
    )
    claimed = Counter()

    @cases(6, times)
    @example(
        drawn(blocks=["plain", "residual"])[0],
        {"heads": True, "optimizer": IN_OUR_RUNNER["adamw"], "bfloat16": True, "tasks": 3, "fine_tune_share": 0.4},
        {"margin": 0.0, "budget": 0.3},
    )
    @given(
        plans,
        st.fixed_dictionaries(
            {
                "heads": st.booleans(),
                "optimizer": st.sampled_from([*IN_OUR_RUNNER.values()]),
                "bfloat16": st.booleans(),
                "tasks": st.integers(2, 3),
                "fine_tune_share": st.sampled_from([0.0, 0.4]),
            }
        ),
        options,
    )
    def check(plan, training, given):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plugin = check_nothing_is_forgotten_in_our_runner(images, plan, training, given)
        later = sum(row.new for task, rows in plugin.reports.items() if task for row in rows)
        claimed[later > 0] += 1

    check()
    assert claimed[True]
