"""The spiking reconstruction: its neurons, its pathways, and what it says of itself."""

import pytest
import torch
from torch import nn

from clbench.baselines.spiking import LIF, made_spiking, spiking_neurons
from clbench.methods.table import find_method, resolve_settings
from clbench.records.reading import read_run
from clbench.suites.files import SUITES


def test_a_neuron_integrates_leaks_spikes_and_starts_from_0():
    lif = LIF()
    currents = [0.8, 0.8, 0.8, 0.1, 2.0]
    u, spikes = 0.0, []
    for current in currents:
        u += (current - u) / 2
        spikes.append(float(u > 0.5))
        u = 0.0 if u > 0.5 else u
    lif.begin()
    found = []
    for current in currents:
        lif.begin_step()
        found.append(float(lif(torch.tensor([current]))))
    assert found == spikes
    assert 0 < sum(spikes) < len(spikes)
    assert float(lif.n_spikes) == sum(spikes)


def test_the_surrogates_slope_is_that_of_a_quadratic_step():
    for current, slope in ((1.0, 2.0), (1.5, 1.0), (0.6, 1.2), (2.5, 0.0), (-0.5, 0.0)):
        x = torch.tensor([current], requires_grad=True)
        lif = LIF()
        lif.begin()
        lif(x).backward()
        # The membrane takes half of the current.
        torch.testing.assert_close(x.grad, torch.tensor([slope / 2]))


def test_an_image_is_shown_for_so_many_steps_and_the_next_one_starts_anew():
    torch.manual_seed(0)
    network = made_spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), 4)
    x = torch.rand(2, 5) * 2
    current, u, total = network[0](x), torch.zeros(2, 8), torch.zeros(2, 3)
    for _ in range(4):
        u = u + (current - u) / 2
        spikes = (u > 0.5).float()
        u = u * (1 - spikes)
        total += network[2](spikes)
    torch.testing.assert_close(network(x), total / 4)
    assert torch.equal(network(x), network(x))
    assert len(spiking_neurons(network)) == 1


def test_a_module_that_two_layers_call_is_two_layers_of_neurons():
    class Twice(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second
            self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.c((self.second or self.first)(self.b(self.first(self.a(x)))))

    torch.manual_seed(0)
    x = torch.rand(2, 5) * 4
    once, apart = Twice(nn.ReLU(), None), Twice(nn.ReLU(), nn.ReLU())
    apart.load_state_dict(once.state_dict())
    answers = [made_spiking(network, 4)(x) for network in (once, apart)]
    assert torch.equal(*answers)
    assert [len(spiking_neurons(network)) for network in (once, apart)] == [1, 2]
    spikes = [sum(float(lif.n_spikes) for lif in spiking_neurons(network)) for network in (once, apart)]
    assert spikes[0] == spikes[1] > 0
    named_twice = Twice(*[nn.ReLU()] * 2)
    named_twice.load_state_dict(apart.state_dict())
    assert torch.equal(made_spiking(named_twice, 4)(x), answers[1])


@pytest.fixture
def workplace(make_workplace):
    return make_workplace(n_tasks=2, hidden_sizes=[48, 48], epochs=3, batch_size=32)


def test_frozen_pathways_forget_nothing_to_the_bit_and_plastic_ones_move(workplace, make_method):
    first, second = workplace.stream.tasks
    x = first.test.tensors()[0]
    for plasticity, same in ((0.0, True), (0.1, False)):
        method = make_method("sor-snn-style", workplace, plasticity=plasticity)
        found = []
        for task in (first, second):
            method.learn(task)
            with method.network_for(first) as network, torch.inference_mode():
                found.append(network(x).clone())
        assert torch.equal(*found) == same


def test_each_task_has_a_pathway_of_the_given_share_and_regulation_moves_it(workplace, make_method):
    method = make_method("sor-snn-style", workplace, share=0.2)
    for task in workplace.stream.tasks:
        method.learn(task)
    for name in method.shared:
        one, two = (method.mask_of(task, name) for task in (0, 1))
        for mask in (one, two):
            assert int(mask.sum()) == pytest.approx(0.2 * mask.numel(), abs=2)
        assert (one & ~two).any()
        assert (one & two).any()


def test_what_it_says_of_itself_is_counted_by_hand(workplace, make_method):
    method = make_method("sor-snn-style", workplace)
    method.learn(workplace.stream.tasks[0])
    said = method.measures()
    view, x = method.view(0).eval(), workplace.stream.tasks[0].train.batch(torch.arange(256))[0]
    first, second, last = view.trunk[0], view.trunk[2], view.head
    u, v, spikes, additions = torch.zeros(256, 48), torch.zeros(256, 48), 0.0, 0.0
    with torch.no_grad():
        for _ in range(4):
            u = u + (first(x.flatten(1)) - u) / 2
            s = (u > 0.5).float()
            u = u * (1 - s)
            v = v + (second(s) - v) / 2
            z = (v > 0.5).float()
            v = v * (1 - z)
            spikes += float(s.sum() + z.sum())
            additions += float((s @ (second.weight != 0).float().T).sum())
            additions += float((z @ (last.weight != 0).float().T).sum())
    assert last.in_features == 48
    assert said["spikes_per_image"] == pytest.approx(spikes / 256)
    multiplications = 4 * int((first.weight != 0).sum())
    assert said["synaptic_operations_per_image"] == pytest.approx(additions / 256 + multiplications)
    nanojoules = (0.9 * additions / 256 + 4.6 * multiplications) / 1000
    assert said["nanojoules_per_image"] == pytest.approx(nanojoules)
    assert said["synapses_active"] == pytest.approx(0.3, abs=0.01)


def test_a_network_without_relu_modules_is_refused(workplace):
    settings = resolve_settings(SUITES["permuted-digits"], "sor-snn-style", {})
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    assert "nn.ReLU" in find_method("sor-snn-style").unfit(network, torch.zeros(1, 1, 8, 8), settings)


@pytest.mark.long
def test_a_run_records_its_further_numbers_and_a_report_shows_them(clbench, tmp_path):
    changes = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64"]
    ran = clbench(tmp_path, "run", "--suite", "permuted-digits", "--methods", "sor-snn-style", "--seeds", "0", *changes)
    assert ran.code == 0, ran.err
    (folder,) = [path for path in (tmp_path / "clbench-runs").iterdir() if (path / "status.json").is_file()]
    run = read_run(folder)
    assert list(run.measures["task"]) == [1] * 4 + [2] * 4
    assert set(run.measures["name"]) == {
        "spikes_per_image",
        "synapses_active",
        "synaptic_operations_per_image",
        "nanojoules_per_image",
    }
    page = (tmp_path / "clbench-reports" / "permuted-digits.html").read_text()
    assert "spikes per image" in page
