"""Networks whose units cannot be found are refused by the name of what is in the way."""

import pytest
import torch
from avalanche.models import MTSimpleMLP
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from clbench.errors import MethodError
from clbench.networks.units import find_units


class Layers(nn.Module):
    """Three layers, put together by each of those below in a way of its own."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 3)
        self.register_buffer("scales", torch.rand(8))

    def hidden(self, x):
        return self.a(x.flatten(1)).relu()


class DependsOnValues(Layers):
    def forward(self, x):
        h = self.hidden(x)
        if h.sum() > 0:
            h = self.b(h)
        return self.c(h)


class UsesAWeightItself(Layers):
    def forward(self, x):
        return self.c(F.linear(self.hidden(x), self.b.weight))


class UsesALayerTwice(Layers):
    def forward(self, x):
        return self.c(self.b(self.b(self.hidden(x))))


class Attends(Layers):
    def forward(self, x):
        rows = x.squeeze(1)
        return self.c(torch.softmax(self.b(rows) @ rows.transpose(1, 2), -1).mean(1))


class Mixes(Layers):
    def forward(self, x):
        return self.c(torch.softmax(self.b(self.hidden(x)), 1))


class MixesEarlier(Layers):
    def forward(self, x):
        return self.c(torch.softmax(self.b(self.hidden(x)), 1).relu() * 2)


class GivesWhatIsHiddenToo(Layers):
    def forward(self, x):
        h = self.hidden(x)
        return self.c(h), h


class ReadsItsOutputs(Layers):
    def __init__(self):
        super().__init__()
        self.d = nn.Linear(3, 3)

    def forward(self, x):
        y = self.c(self.hidden(x))
        return y + self.d(y)


class GivesAPart(Layers):
    def forward(self, x):
        return torch.cat([self.c(self.hidden(x)), x.flatten(1)], 1).split(2, 1)[0]


class Splits(Layers):
    def forward(self, x):
        first, second = self.hidden(x).chunk(2, 1)
        return self.c(torch.cat([first, second], 1))


class ScalesEachByItsOwn(Layers):
    def forward(self, x):
        return self.c(self.hidden(x) * self.scales)


class ChannelsWritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3)
        self.c = nn.Linear(4, 3)

    def forward(self, x):
        return self.c(self.a(x).view(-1, 4, 36).mean(2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.r = nn.LSTM(8, 8, batch_first=True)
        self.c = nn.Linear(8, 3)

    def forward(self, x):
        return self.c(self.r(x[:, 0])[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.r = nn.MultiheadAttention(8, 2, batch_first=True)
        self.c = nn.Linear(8, 3)

    def forward(self, x):
        return self.c(self.r(x[:, 0], x[:, 0], x[:, 0])[0].mean(1))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(5, 8)
        self.c = nn.Linear(8, 3)

    def forward(self, x):
        return self.c(self.e(x.flatten(1).long()).mean(1))


class OnPositions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3)
        self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 3)

    def forward(self, x):
        return self.c(self.b(self.a(x)).mean((1, 2)))


class Doubling(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def between(*layers, first=lambda: nn.Linear(64, 8)):
    return lambda: nn.Sequential(nn.Flatten(), first(), *[layer() for layer in layers], nn.ReLU(), nn.Linear(8, 3))


def images(*layers):
    return lambda: nn.Sequential(nn.Conv2d(1, 8, 3), *[layer() for layer in layers], nn.Flatten(), nn.LazyLinear(3))


TAKES = "CLNP and HAT take linear layers, convolutions (Conv2d) and batch norms (BatchNorm1d, BatchNorm2d)"
COMPUTED = "the weights of '1' are computed from others, as by weight_norm, spectral_norm or prune"
ALL = "works with all neurons or filters before it and no fewer; CLNP and HAT leave some out"
REFUSED = {
    "layer norm": (between(lambda: nn.LayerNorm(8)), f"'2' is a LayerNorm; {TAKES}"),
    "group norm": (images(lambda: nn.GroupNorm(2, 8)), f"'1' is a GroupNorm; {TAKES}"),
    "PReLU": (between(nn.PReLU), f"'2' is a PReLU; {TAKES}"),
    "transposed": (images(lambda: nn.ConvTranspose2d(8, 8, 3)), f"'1' is a ConvTranspose2d; {TAKES}"),
    "recurrent": (Recurrent, f"'r' is a LSTM; {TAKES}"),
    "attention": (Attention, f"'r' is a MultiheadAttention; {TAKES}"),
    "embedding": (Words, f"'e' is a Embedding; {TAKES}"),
    "lazy": (between(lambda: nn.LazyLinear(8)), "'2' is a LazyLinear that has not seen an image yet"),
    "own code": (between(first=lambda: Doubling(64, 8)), "'1' is a Doubling that computes something of its own"),
    "weight_norm": (between(first=lambda: parametrizations.weight_norm(nn.Linear(64, 8))), COMPUTED),
    "spectral_norm": (between(first=lambda: parametrizations.spectral_norm(nn.Linear(64, 8))), COMPUTED),
    "prune": (between(first=lambda: prune.random_unstructured(nn.Linear(64, 8), "weight", 0.5)), COMPUTED),
    "grouped": (
        images(lambda: nn.Conv2d(8, 8, 3, groups=2)),
        "'1' is a convolution in 2 groups; CLNP and HAT take one",
    ),
    "batch norm without statistics": (
        between(lambda: nn.BatchNorm1d(8, track_running_stats=False)),
        "the batch norm '2' keeps no statistics (track_running_stats=False)",
    ),
    "linear over positions": (
        OnPositions,
        "'b' gets a tensor of shape [4, 6, 6] for each image; CLNP and HAT need [features]",
    ),
    "attention by hand": (Attends, "'b' gets a tensor of shape [8, 8] for each image; CLNP and HAT need [features]"),
    "mixing by a module": (
        between(lambda: nn.LayerNorm(8, elementwise_affine=False)),
        "cannot follow units through '2', a LayerNorm, to the layer '4'",
    ),
    "mixing by a function": (Mixes, "cannot follow units through the function softmax to the layer 'c'"),
    "mixing, then more": (MixesEarlier, "cannot follow units through the function softmax to the layer 'c'"),
    "splitting": (Splits, "cannot follow units through the function chunk to the layer 'c'"),
    "shuffling": (images(lambda: nn.ChannelShuffle(2)), "cannot follow units through '1', a ChannelShuffle,"),
    "scales of each": (ScalesEachByItsOwn, f"the function mul {ALL}"),
    "channels written": (ChannelsWritten, f"the function view {ALL}"),
    "statistics of each": (images(lambda: nn.InstanceNorm2d(8, track_running_stats=True)), f"'1' {ALL}"),
    "as many groups as filters": (images(lambda: nn.GroupNorm(8, 8, affine=False)), f"'1' {ALL}"),
    "depends on values": (DependsOnValues, "line 31: if h.sum() > 0:"),
    "a weight itself": (UsesAWeightItself, "uses its parameter 'b.weight' past a layer"),
    "a layer twice": (UsesALayerTwice, "the layer 'b' is used more than once in a pass"),
    "two outputs": (GivesWhatIsHiddenToo, "one layer that gives the outputs, but found 'a' and 'c'"),
    "outputs read": (ReadsItsOutputs, "one layer that gives the outputs, but found 'c'"),
    "no output": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "one layer that gives the outputs, but found none"),
    "no hidden layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "at least one hidden layer"),
    "one neuron": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.ReLU(), nn.Linear(1, 3)),
        "the layer '1' has one neuron, of which none can be free",
    ),
    "other images": (lambda: nn.Sequential(nn.Linear(5, 8)), "cannot take an image of [1, 8, 8]: RuntimeError"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_by_the_name_of_what_is_in_the_way(make, said):
    network = make()
    image = torch.zeros(1, 1, 8, 8)
    if isinstance(network, nn.Sequential) and isinstance(network[0], nn.Conv2d):
        network(image)
    with pytest.raises(MethodError) as refused:
        find_units(network, image)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_task_without_a_head_of_avalanches_is_refused():
    with pytest.raises(MethodError, match="'classifier' has no output layer for task label 7 yet"):
        find_units(MTSimpleMLP(input_size=6), torch.zeros(1, 6), 7)


def test_after_a_refusal_the_network_is_as_it_was():
    network = Mixes().train()
    network.b.eval()
    with pytest.raises(MethodError):
        find_units(network, torch.zeros(1, 1, 8, 8))
    assert (network.training, network.a.training, network.b.training) == (True, True, False)
