"""What the sums over per-sample gradients leave as it was, and which form of the network they see."""

import pytest
import torch
from torch import nn

from clbench.baselines.ewc import fisher_diagonal
from clbench.baselines.mas import importance_of
from clbench.errors import MethodError
from clbench.networks import per_sample
from clbench.networks.per_sample import unsupported

MEASURES = [fisher_diagonal, importance_of]


def image_by_image(measure, model, images):
    """What a measure is by its definition: a backward pass for each image, and each label that it weighs."""
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    sizes = torch.square if measure is fisher_diagonal else torch.abs
    for image in images.split(1):
        logits = model(image)
        log_p = logits.log_softmax(1)[0]
        numbers = (
            [(logits.square().sum(), 1.0)] if measure is importance_of else list(zip(log_p, log_p.exp(), strict=True))
        )
        for number, weight in numbers:
            found = torch.autograd.grad(number, list(model.parameters()), retain_graph=True, allow_unused=True)
            for tensor, gradient in zip(total.values(), found, strict=True):
                if gradient is not None:
                    tensor += float(weight) * sizes(gradient)
    return {name: tensor / len(images) for name, tensor in total.items()}


@pytest.mark.parametrize("measure", MEASURES)
def test_of_every_kind_of_layer_it_is_what_it_is_image_by_image(measure, small_network, batches):
    made, images = small_network
    model, x = made.double(), torch.rand(7, *images.shape[1:], dtype=torch.double)
    assert unsupported(model, x[:1]) == ""
    found, expected = measure(model, batches(x, 5)), image_by_image(measure, model, x)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.count_nonzero(expected[name]) > 0
        torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=1e-9)


class Aside(nn.Module):
    """With a second output layer that is computed and not used."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.other = nn.Conv2d(1, 3, 3), nn.Linear(108, 3), nn.Linear(108, 3)

    def forward(self, x):
        h = self.body(x).relu().flatten(1)
        self.aside = self.other(h)
        return self.head(h)


class Twice(Aside):
    """A layer that is called a second time."""

    def forward(self, x):
        h = self.body(x).relu().flatten(1)
        return self.head(h) + self.head(h.square())


class BiasElsewhere(Aside):
    """A bias that adds something behind its layer as well."""

    def forward(self, x):
        return self.head(self.body(x).relu().flatten(1)) + self.head.bias.square()


class Patches(nn.Module):
    """Several rows of each image."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(16, 5), nn.Linear(20, 3)

    def forward(self, x):
        rows = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 16)
        return self.head(self.body(rows).tanh().view(len(x), -1))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_layer_whose_output_is_not_used_counts_nothing(measure, batches):
    torch.manual_seed(0)
    model, x = Aside().double(), torch.rand(5, 1, 8, 8, dtype=torch.double)
    assert unsupported(model, x[:1]) == ""
    found, expected = measure(model, batches(x, 5)), image_by_image(measure, model, x)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=1e-9)
    assert not found["other.weight"].any()


def normed():
    """In the old form, of which the weight is no parameter."""
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 3)))


def mixing():
    """By the statistics of the batch, in a layer without weights."""
    norm = nn.BatchNorm2d(2, affine=False, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(72, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Twice, "head is used more often"),
        (BiasElsewhere, "those of head are used elsewhere"),
        (Patches, "body gets 4 for one"),
        (normed, "weight_g belongs to another kind"),
        (mixing, "one changes another's answer"),
    ],
)
def test_what_no_rule_holds_for_is_refused_also_by_a_plugin_that_asked_nothing_before(make, said, measure, batches):
    torch.manual_seed(0)
    model, x = make(), torch.rand(5, 1, 8, 8)
    assert said in unsupported(model, x[:1])
    with pytest.raises(MethodError, match=said):
        measure(model, batches(x, 5))


@pytest.mark.parametrize("measure", MEASURES)
def test_what_works_in_place_behind_a_layer_changes_nothing(measure, batches):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ]
    model, x = nn.Sequential(*layers).double(), torch.randn(5, 1, 8, 8, dtype=torch.double)
    expected = measure(model, batches(x, 5))
    for layer in (model[2], model[5]):
        layer.inplace = True
    assert unsupported(model, x[:1]) == ""
    found = measure(model, batches(x, 5))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_with_convolutions_the_memory_that_images_take_together_has_a_bound(monkeypatch, batches):
    seen = []
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)), torch.randn(64, 1, 8, 8)
    model[0].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
    whole = fisher_diagonal(model, batches(x, 64))
    # One at first, to see how layers are used, then two, to see whether they change each other.
    assert seen == [1, 2, 4, 60]
    seen.clear()
    monkeypatch.setattr(per_sample, "_PIECE_BYTES", 10 * (9 * 36 + 36) * 4)
    bounded = fisher_diagonal(model, batches(x, 64), n_images=30)
    assert seen[:3] == [1, 2, 4]
    assert sum(seen[2:]) == 30
    assert 5 <= max(seen) <= 10
    torch.testing.assert_close(bounded, fisher_diagonal(model, batches(x[:30], 30)))
    assert not torch.equal(bounded["0.weight"], whole["0.weight"])


def with_dropout(share):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Dropout(share), nn.ReLU(), nn.Linear(5, 3)).double()


def hooks(model):
    return [len(module._forward_hooks) for module in model.modules()]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_seen_without_dropout_and_left_in_its_mode(measure, training, batches):
    model, x = with_dropout(0.5).train(training), torch.randn(9, 6, dtype=torch.double)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    found, expected = measure(model, batches(x, 4)), measure(with_dropout(0.0), batches(x, 4))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert found.keys() == {"0.weight", "3.weight", "3.bias"}
    assert model.training is training
    assert hooks(model) == [0] * 5
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, model.parameters(), weights))


@pytest.mark.parametrize("measure", MEASURES)
def test_it_can_be_measured_where_gradients_are_off(measure, batches):
    model, x = with_dropout(0.0), torch.randn(9, 6, dtype=torch.double)
    expected = measure(model, batches(x, 4))
    with torch.no_grad():
        found = measure(model, batches(x, 4))
    for name in expected:
        assert torch.equal(found[name], expected[name])
        assert not found[name].requires_grad


@pytest.mark.parametrize("measure", MEASURES)
def test_a_batch_that_fails_leaves_no_hook_behind(measure, batches):
    model = with_dropout(0.5).train()
    with pytest.raises(RuntimeError):
        measure(model, batches(torch.randn(9, 7, dtype=torch.double), 4))
    assert hooks(model) == [0] * 5
    assert model.training


@pytest.mark.parametrize("measure", MEASURES)
def test_no_batch_is_read_after_the_images_asked_for(measure, batches):
    source = iter(batches(torch.randn(24, 6, dtype=torch.double), 7))
    measure(with_dropout(0.0), source, 10)
    assert len(list(source)) == 2
