"""Parts of the weights: what methods share that let each task read some weights of one network and no others.

A *shared* weight belongs to a hidden linear layer or convolution. Each task reads a part of them, by a mask of one bit
per weight. Whatever else it answers with is its own and kept for it. That is biases, batch norms with their statistics,
and an output layer that all tasks have together. So a later task can change nothing in how it answers.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clbench.data.streams import Task
from clbench.methods.method import Answers, Method, answering
from clbench.networks.answer import layers_called
from clbench.networks.heads import heads_of
from clbench.networks.unit_map import Units, make_silent
from clbench.networks.units import find_units


def frozen(network: nn.Module) -> str:
    """Which weight is frozen of a network that a method trains all of, in a sentence. Empty where none is."""
    names = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    return f"the method trains every weight, but '{names[0]}' is frozen" if names else ""


PerTask = Literal["per-task"]
"""`output_weights`, as records and reports show them: of a single head as well, every task has its own."""


class PartsMethod(Method):
    """A method whose tasks each read a part of the shared weights, as `read_by` says.

    A subclass trains, and calls `keep` once a task is learned.

    Attributes:
        shared: names of the layers whose weights tasks read in part, in the order in which images go through them.
        own: task -> what is its alone beside its output layer, by name.
    """

    task_known_at_test = True
    shared: list[str]

    @property
    def masks_outputs(self) -> bool:
        """Whether the output layers' weights are shared as well."""
        return False

    def read_by(self, task: int) -> dict[str, Tensor]:
        """What stands in the place of weights for a task, by the names that they have in a plain network."""
        raise NotImplementedError

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: Any) -> str:
        """Refuses a network without a hidden layer to share, or with frozen weights."""
        if reason := frozen(network):
            return reason
        called = layers_called(network, image)
        if reason := computed(network, called):
            return reason
        if len(called) < 2:
            return "tasks share the weights of hidden linear layers and convolutions, but the network has none"
        return ""

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network as it is; which of its layers are shared is noted."""
        found = layers_called(network, torch.zeros(1, *self.workplace.stream.image_shape))
        self._output = found[-1]
        self.shared = [*found[:-1], *(self._outputs_of(network) if self.masks_outputs else [])]
        self.own: dict[int, dict[str, Tensor]] = {}
        self._plain = copy.deepcopy(network)
        # Every task's output layer starts where the first one's did, if it has none to itself.
        self._first_outputs = {
            name: tensor.clone() for name, tensor in network.state_dict().items() if self._is_of_output(network, name)
        }
        return network

    def _outputs_of(self, network: nn.Module) -> list[str]:
        return heads_of(network) or [self._output]

    def _is_of_output(self, network: nn.Module, name: str) -> bool:
        return not heads_of(network) and name.startswith(f"{self._output}.")

    @property
    def outputs(self) -> list[str]:
        """Names of the output layers."""
        return self._outputs_of(self.model)

    def weights(self) -> dict[str, nn.Parameter]:
        """The shared weights, by the names of their layers."""
        layers = dict(self.model.named_modules())
        return {name: weight_of(layers[name]) for name in self.shared}

    def is_own(self, name: str) -> bool:
        """Whether a tensor of a plain network is each task's alone; so is all but shared weights and several heads."""
        heads = tuple(f"{head}." for head in heads_of(self.model))
        return not name.startswith(heads) and name not in {f"{layer}.weight" for layer in self.shared}

    @torch.no_grad()
    def start_outputs(self) -> None:
        """The output layer of a network that has but one starts anew, for a new task has one of its own."""
        for name, tensor in self._first_outputs.items():
            if "parametrizations." not in name:
                self.model.get_parameter(name).copy_(tensor)

    def _rows_of(self, task: int, name: str, tensor: Tensor) -> Any:
        """Which rows of a tensor a task answers with: its slice of an output layer that has one for each task."""
        suite, n = self.workplace.suite, self.workplace.stream.n_outputs
        is_sliced = suite.head == "multi" and self._is_of_output(self._plain, name)
        return slice(task * n, (task + 1) * n) if is_sliced and tensor.shape[:1] == (suite.n_tasks * n,) else ...

    def keep(self, task: int) -> None:
        """Notes what is the task's alone."""
        found = self.model.state_dict()
        names = [name for name in self._plain.state_dict() if self.is_own(name)]
        self.own[task] = {name: found[name][self._rows_of(task, name, found[name])].clone() for name in names}

    @torch.no_grad()
    def view(self, task: int) -> nn.Module:
        """A network of its own, plain layers all, that answers as after the task."""
        made = copy.deepcopy(self._plain).to(self.workplace.device)
        found = {**self.model.state_dict(), **self.own[task], **self.read_by(task)}
        for name, tensor in made.state_dict().items():
            # Other tasks' output layers are not asked, nor other rows of one that has rows for each task.
            rows = self._rows_of(task, name, tensor) if name in self.own[task] else ...
            tensor[rows] = found.get(name, tensor)
        return made

    @cached_property
    def found_units(self) -> Units:
        """The units of the suite's network."""
        stream = self.workplace.stream
        network = self.workplace.suite.build_network(stream.image_shape, stream.n_outputs, 0)
        return find_units(network, torch.zeros(1, *stream.image_shape))

    @torch.no_grad()
    def destroy(self, units: Tensor) -> None:
        """Makes what leads to units 0, for every task, and what their batch norms give."""
        weights, present = self.weights(), self.model.state_dict()
        for name, layer in self.found_units.layers.items():
            writes = layer.writes.to(units.device)
            rows = (writes >= 0) & units[writes.clamp(min=0)]
            if name in weights:
                weights[name][rows] = 0
            for tensors in (present, *self.own.values()):
                make_silent(name, rows, tensors)

    def network_for(self, task: Task) -> AbstractContextManager[Answers] | None:
        """The network of the task's own part; of a task not learned yet, through the latest one's."""
        plain = super().network_for(task)
        known = task.index if task.index in self.own else self.tasks_learned - 1
        return plain if plain is None or known not in self.own else answering(self.view(known), task)

    def network_alone(self, task: Task) -> nn.Module:
        """The network of the task's own part."""
        return self.view(task.index)

    def extra_state(self) -> Mapping[str, Tensor]:
        """What is each task's alone."""
        return {f"own/{task}/{name}": tensor for task, own in self.own.items() for name, tensor in own.items()}

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes it back."""
        # A task may have nothing to itself.
        self.own = {task: {} for task in range(self.tasks_learned)}
        for key, tensor in extra.items():
            kind, task, name = key.split("/", 2)
            if kind == "own":
                self.own.setdefault(int(task), {})[name] = tensor.to(self.workplace.device, copy=True)


class MaskedMethod(PartsMethod):
    """A method whose tasks each read some of the shared weights as they are, chosen by `mask_of`.

    Class attributes:
        mask_bits: what a task's mask takes for each weight, as CAP counts it. Kang et al. 2022 code the bits of seven
            tasks together, which saves 78 %.
    """

    mask_bits: ClassVar[float] = 0.22

    def mask_of(self, task: int, layer: str) -> Tensor:
        """Which weights of a layer the task reads, bool and shaped like them."""
        raise NotImplementedError

    def units_of(self, task: Task) -> tuple[Units, Tensor]:
        """The units that a weight which the task reads enters, and another leaves."""
        entered, left = torch.zeros(2, self.found_units.n_units, dtype=torch.bool, device=self.workplace.device)
        heads = heads_of(self.model)
        for name, layer in self.found_units.layers.items():
            if layer.kind not in ("linear", "conv"):
                continue
            is_output = name in self.found_units.outputs
            called = heads[task.index] if is_output and heads else name
            reads, writes = layer.reads.to(entered.device), layer.writes.to(entered.device)
            # All of an output layer that is not shared is read.
            mask = (
                self.mask_of(task.index, called) if called in self.shared else reads.new_ones(len(writes), len(reads))
            )
            if not is_output:
                entered[writes[mask.flatten(1).any(1)]] = True
            columns = mask.transpose(0, 1).flatten(1).any(1)
            # A convolution in groups has fewer columns than inputs.
            reads = reads[columns] if len(columns) == len(reads) else reads
            left[reads[reads >= 0]] = True
        return self.found_units, entered & left

    def read_by(self, task: int) -> dict[str, Tensor]:
        """The weights that the mask lets through; 0 in the place of others."""
        heads = heads_of(self.model)
        read = {name: weight for name, weight in self.weights().items() if name not in heads or name == heads[task]}
        return {f"{name}.weight": weight * self.mask_of(task, name) for name, weight in read.items()}

    def capacity(self) -> list[dict[str, Any]]:
        """Free, new and reused weights of each layer after the last task."""
        return list(self._counted(self.tasks_learned - 1)) if self.own else []

    def _counted(self, task: int) -> Iterator[dict[str, Any]]:
        for group, name in self.groups():
            read, used = self.mask_of(task, name), self.used_before(task, name)
            yield {
                "task": task + 1,
                "group": group,
                "unit": "weight",
                "units": read.numel(),
                "free": int((~(read | used)).sum()),
                "new": int((read & ~used).sum()),
                "reused": int((read & used).sum()),
                "weights_used": int((read | used).sum()) / read.numel() + self.mask_bits * (task + 1) / 32,
                "weights": read.numel(),
            }

    def used_before(self, task: int, layer: str) -> Tensor:
        """Which weights of a layer tasks before this one read, bool and shaped like them."""
        found = torch.zeros_like(self.mask_of(task, layer))
        for earlier in range(task):
            found |= self.mask_of(earlier, layer)
        return found

    def groups(self) -> list[tuple[str, str]]:
        """What reports call each hidden layer with shared weights, and its name."""
        return groups_of(self.model, [name for name in self.shared if name not in self.outputs])


def computed(network: nn.Module, names: list[str]) -> str:
    """Why weights of these layers cannot be held; empty where all are parameters."""
    layers = dict(network.named_modules())
    for name in names:
        if "weight" not in dict(layers[name].named_parameters(recurse=False)):
            return f"the weight of the layer '{name}' is computed anew in every step, so no part of it can be held"
    return ""


def groups_of(network: nn.Module, names: list[str]) -> list[tuple[str, str]]:
    """What reports call each of these layers (`conv_1`, `layer_1`, ...), and its name."""
    layers, counts, found = dict(network.named_modules()), {"conv": 0, "layer": 0}, []
    for name in names:
        kind = "conv" if isinstance(layers[name], nn.Conv2d) else "layer"
        counts[kind] += 1
        found.append((f"{kind}_{counts[kind]}", name))
    return found


def weight_of(layer: Any) -> nn.Parameter:
    """A layer's weight; where something is computed from it at every step, what that is computed from."""
    found = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
    assert isinstance(found, nn.Parameter)
    return found
