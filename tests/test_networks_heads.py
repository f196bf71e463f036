import hashlib
import itertools

import pytest
import torch
from avalanche.models.utils import avalanche_forward
from torch import nn

from clbench.errors import SettingError
from clbench.networks.heads import outputs_of, with_heads
from clbench.networks.several_heads import SlicedHeads

# Of the networks that recorded runs were trained with, 12-7-5-3 and four heads, drawn from SEED.
SEED = 2**62 + 5
RECORDED = {
    "single": "1df4ec152c35eaf4d358d09b09a5751a2bf84765e1a2e22586b0825aefaeb3ae",
    "multi": "cc7f7fdd56f4986297d1bde70fb79492e5b554ba03e4f2fbce655b8d3e9a9f47",
}
LABELS = torch.tensor([2, 0, 0, 3, 2, 2, 0, 3, 0])


class Flat(nn.Sequential):
    def forward(self, x):
        return super().forward(x.flatten(1))


class Float32(nn.Module):
    def forward(self, x):
        return x.float()


@pytest.fixture
def make():
    """(head, ...) -> linear layers 12-7-5 with heads of 3 outputs for four tasks."""

    def build(head, seed=SEED, **options):
        torch.default_generator.manual_seed(seed)
        trunk = Flat(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU())
        return with_heads(trunk, 5, 3, head=head, n_tasks=4, **options)

    return build


@pytest.fixture
def multi(make):
    return make("multi")


@pytest.fixture
def sliced():
    """A whole network of 12 outputs as four heads of 3."""
    torch.manual_seed(0)
    return SlicedHeads(Flat(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 12)), n_tasks=4, n_outputs=3)


def digest(model):
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("head", RECORDED)
def test_names_order_and_bits_of_the_weights_are_those_of_recorded_runs(make, head):
    assert digest(make(head)) == RECORDED[head]


def test_one_head_over_all_classes_is_built_as_a_single_one(make):
    assert digest(make("classes")) == RECORDED["single"]


def test_the_weights_of_a_head_per_task_bear_the_names_of_checkpoints(multi):
    assert list(multi.state_dict()) == [
        *(f"trunk.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")),
        *(f"heads.{task}.{part}" for task in range(4) for part in ("weight", "bias")),
    ]


def test_the_logits_of_one_head_are_the_heads_of_the_features(make):
    model, x = make("single"), torch.rand(9, 3, 2, 2)
    assert torch.equal(model(x), model.head(model.trunk(x)))


def test_avalanche_hands_one_head_the_images_alone(make):
    model, x = make("single"), torch.rand(9, 3, 2, 2)
    assert torch.equal(avalanche_forward(model, x, LABELS), model(x))


@pytest.mark.parametrize("kind", ["multi", "sliced"])
def test_a_batch_of_several_tasks_gives_what_each_task_gives_alone(request, kind):
    model, x = request.getfixturevalue(kind), torch.rand(9, 3, 2, 2)
    mixed = model(x, LABELS)
    assert mixed.shape == (9, 3)
    for task in (0, 2, 3):
        of_task = LABELS.eq(task)
        alone = model(x[of_task], task)
        torch.testing.assert_close(mixed[of_task], alone)
        torch.testing.assert_close(model(x[of_task], torch.full((len(alone),), task)), alone)


@pytest.mark.parametrize("kind", ["multi", "sliced"])
def test_avalanche_hands_the_task_labels_to_the_heads(request, kind):
    model, x = request.getfixturevalue(kind), torch.rand(9, 12)
    assert torch.equal(avalanche_forward(model, x, LABELS), model(x, LABELS))


@pytest.mark.parametrize("kind", ["multi", "sliced"])
def test_a_new_experience_changes_nothing(request, kind):
    model = request.getfixturevalue(kind)
    before = digest(model)
    model.adaptation(None)
    assert digest(model) == before


@pytest.mark.parametrize("kind", ["multi", "sliced"])
def test_every_task_has_a_head_of_its_own(request, kind):
    model, x = request.getfixturevalue(kind), torch.rand(2, 12)
    outputs = [model(x, task) for task in range(4)]
    assert not any(torch.equal(first, second) for first, second in itertools.combinations(outputs, 2))


@pytest.mark.parametrize("labels", [LABELS, 2, torch.full((9,), 2)])
@pytest.mark.parametrize("kind", ["multi", "sliced"])
def test_heads_work_under_autocast(request, kind, labels):
    model, x = request.getfixturevalue(kind), torch.rand(9, 12)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x, labels)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(x, labels), atol=0.02, rtol=0.02)


def test_a_trunk_that_leaves_autocast_may_have_heads_within_it(multi):
    multi.trunk = nn.Sequential(multi.trunk, Float32())
    with torch.autocast("cpu", torch.bfloat16):
        logits = multi(torch.rand(9, 12), LABELS)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_only_the_heads_in_the_batch_receive_a_gradient(multi):
    multi(torch.rand(6, 12), torch.tensor([1, 1, 3, 3, 3, 1])).sum().backward()
    assert [head.weight.grad is not None for head in multi.heads] == [False, True, False, True]


def test_only_the_slices_in_the_batch_receive_a_gradient_other_than_0(sliced):
    sliced(torch.rand(6, 12), torch.tensor([1, 1, 3, 3, 3, 1])).sum().backward()
    of_tasks = sliced.network[2].weight.grad.unflatten(0, (4, 3))
    assert [bool(gradient.any()) for gradient in of_tasks] == [False, True, False, True]


def test_slices_of_one_linear_layer_are_the_heads_of_its_rows(multi, sliced):
    layer = nn.Linear(5, 12)
    layer.weight = nn.Parameter(torch.cat([head.weight for head in multi.heads]))
    layer.bias = nn.Parameter(torch.cat([head.bias for head in multi.heads]))
    sliced.network = nn.Sequential(multi.trunk, layer)
    x = torch.rand(9, 12)
    for labels in (LABELS, *range(4)):
        torch.testing.assert_close(sliced(x, labels), multi(x, labels))


@pytest.mark.parametrize("head", ["single", "multi", "classes"])
def test_output_layers_can_start_at_0_and_then_nothing_else_does(make, head):
    model, drawn = make(head, zero_head=True).state_dict(), make(head).state_dict()
    for name, tensor in model.items():
        assert not tensor.any() if name.startswith("head") else torch.equal(tensor, drawn[name])


@pytest.mark.parametrize("head", ["single", "multi"])
def test_output_layers_can_do_without_a_bias(make, head):
    names = [name for name in make(head, bias=False).state_dict() if name.startswith("head")]
    assert names
    assert all(name.endswith("weight") for name in names)


def test_counting_outputs_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten())
    network[0].eval()
    before = digest(network)
    assert outputs_of(network, (3, 4, 5)) == 60
    assert digest(network) == before
    assert [module.training for module in network] == [False, True, True]


@pytest.mark.parametrize(
    ("network", "got"),
    [(nn.Identity(), r"shape \[1, 3, 4, 5\]"), (nn.Flatten(0), r"shape \[60\]"), (nn.LSTM(5, 2), "tuple")],
)
def test_a_network_whose_output_is_not_one_row_per_image_is_refused(network, got):
    shape = (4, 5) if isinstance(network, nn.LSTM) else (3, 4, 5)
    with pytest.raises(SettingError, match=rf"{type(network).__name__} gave .*{got}.*flatten"):
        outputs_of(network, shape)
