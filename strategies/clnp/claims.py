"""Which units belong to which task, and what a task needs beside them to answer as it did when it was learned.

A claimed unit reads from claimed units only, so later tasks change nothing in what it gives. What a task's outputs
depend on beside that is kept here: the output layer's weights, and the batch norms where every task has its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.unit_map import make_silent
from clbench.networks.units import Units


class Claims:
    """The units of a network, and the tasks that claimed them.

    Args:
        network: whose weights are the tasks'. It is referred to, so pickle it together with this or apart by `state`.
        units: of the network, seen through one of its output layers; `see` takes in others.
        given: bool [U], units that are constant from the beginning, and every task's.

    Attributes:
        units: as seen for the task at hand. `seen` has them by task label: an output layer may be another one, or give
            other outputs of its own.
        layers: by name, all that were seen.
        active: bool [U], units claimed by a task so far.
        masks: task -> bool [U], units active after that task: what it reads.
        heads: task -> name of its output layer.
        own: task -> the parameters and buffers that are the task's alone, by their names in the network.
    """

    def __init__(self, network: nn.Module, units: Units, given: Tensor) -> None:
        self.network = network
        self.units = units
        self.seen: dict[int, Units] = {}
        self.labels: dict[int, int] = {}
        self._label = 0
        self.layers = dict(units.layers)
        self.given = given
        self.active = given.clone()
        self.masks: dict[int, Tensor] = {}
        self.heads: dict[int, str] = {}
        self.own: dict[int, dict[str, Tensor]] = {}
        self.shown: int | None = None
        self._displaced: dict[str, Tensor] = {}
        # Of frozen batch norms, as the latest task left them; None until they are known.
        self._norms: dict[str, Tensor] | None = None

    def see(self, units: Units, label: int) -> str:
        """Takes in the network as seen for a task label. Returns the name of its output layer.

        Raises:
            MethodError: if the network has other units by now, or the layer another size.
        """
        (head,) = units.outputs
        for name, layer in units.layers.items():
            known = self.layers.setdefault(name, layer)
            same = [torch.equal(mine, now) for mine, now in ((known.reads, layer.reads), (known.writes, layer.writes))]
            if not all(same):
                raise MethodError(
                    f"CLNP needs layers of fixed size, but '{name}' was replaced after an earlier task; build it for "
                    "all classes from the start, or use a head per task"
                )
        if units.n_units != self.units.n_units:
            raise MethodError("CLNP needs the same hidden layers for every task, but the network's have changed")
        self.units = self.seen[label] = units
        self._label = label
        return head

    @property
    def latest(self) -> int | None:
        """The task learned last."""
        return next(reversed(self.masks), None)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network, by name, outside autograd."""
        named = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: tensor.detach() for name, tensor in named.items()}

    def norm_tensors(self) -> list[str]:
        """Names of the parameters and statistics of the batch norms, one entry for each channel."""
        norms = [name for name, layer in self.layers.items() if layer.kind == "norm"]
        kinds = ("weight", "bias", "running_mean", "running_var")
        found = self.tensors()
        return [f"{norm}.{kind}" for norm in norms for kind in kinds if f"{norm}.{kind}" in found]

    def claim(self, task: int, mask: Tensor, head: str, *, own_weights: bool, own_norms: bool) -> None:
        """Makes units the task's for ever.

        Args:
            task: its number.
            mask: bool [U], what it reads: all active units, and those that become so.
            head: name of its output layer, with the weights of the task in it.
            own_weights: whether the output weights are the task's alone. Its biases always are.
            own_norms: whether the batch norms are.
        """
        self.masks[task] = mask.clone()
        self.active |= mask
        self.heads[task], self.labels[task] = head, self._label
        kept = [f"{head}.bias", *([f"{head}.weight"] if own_weights else [])]
        if self.units.masking is not None:
            kept.append(self.units.masking.buffer)
        found = self.tensors()
        names = [name for name in kept if name in found] + (self.norm_tensors() if own_norms else [])
        self.own[task] = {name: found[name].clone() for name in names}
        self._norms = {} if own_norms else {name: found[name].clone() for name in self.norm_tensors()}

    @torch.no_grad()
    def put_back_norms(self) -> None:
        """Gives claimed channels of frozen batch norms what they had.

        Whoever runs the network in training mode moves their statistics, and CLNP need not hear of it.
        """
        if self._norms is None and self.masks:
            found = self.tensors()
            own = any(name in kept for kept in self.own.values() for name in self.norm_tensors())
            self._norms = {} if own else {name: found[name].clone() for name in self.norm_tensors()}
        if self._norms:
            found = self.tensors()
            for name, before in self._norms.items():
                rows = self.constant_rows(name.rpartition(".")[0])
                found[name][rows] = before[rows]

    def alone(self, task: int) -> ReducedNetwork:
        """A network of its own, of the units of a task alone, that answers as after the task."""
        self.move(next(self.network.parameters()).device)
        return self._as_after(task, self.masks[task])

    @contextmanager
    def masked(self, task: int) -> Iterator[ReducedNetwork]:
        """The network of all units as after a task, within which those beyond the task's mask are read as 0."""
        self.move(next(self.network.parameters()).device)
        mask = self.masks[task]
        network = self._as_after(task, torch.ones_like(mask))
        with network.seen_through(mask):
            yield network

    def _as_after(self, task: int, kept: Tensor) -> ReducedNetwork:
        """The network of some units (bool [U]), with the values that it had after a task."""
        self.put_back_norms()
        return ReducedNetwork(self.network, self._seen_for(task), seen_only(kept), self.values(task)).eval()

    def _seen_for(self, task: int) -> Units:
        of_head = {label: units for label, units in self.seen.items() if self.heads[task] in units.outputs}
        if not of_head:
            raise MethodError(
                f"CLNP has not seen the output layer '{self.heads[task]}' of task {task} since its state was loaded; "
                "attach the model with the task's label"
            )
        # Of a state without labels they are the tasks' numbers, or there is but one.
        label = self.labels.get(task, task)
        return of_head[label] if label in of_head else next(iter(of_head.values()))

    def move(self, device: torch.device) -> None:
        """Follows the network to a device."""
        self.given, self.active = self.given.to(device), self.active.to(device)
        self.masks = {task: mask.to(device) for task, mask in self.masks.items()}
        self.own = {task: {name: tensor.to(device) for name, tensor in own.items()} for task, own in self.own.items()}
        if self._norms is not None:
            self._norms = {name: tensor.to(device) for name, tensor in self._norms.items()}

    @torch.no_grad()
    def cut(self, mask: Tensor, new: Tensor) -> None:
        """Makes weights 0 that lead from units that the task does not read to those it claims, and to its outputs.

        Args:
            mask: bool [U], what it reads.
            new: bool [U], what of it is new.
        """
        found = self.tensors()
        for name, layer in self.units.layers.items():
            if layer.kind in ("linear", "conv"):
                weight = found[f"{name}.weight"]
                rows = new.new_ones(len(weight)) if name in self.units.outputs else self.rows(name, new)
                cut = rows[:, None] & ~self.columns(name, mask)[None, :]
                weight.masked_fill_(cut.view(*cut.shape, *[1] * (weight.ndim - 2)), 0)

    @torch.no_grad()
    def destroy(self, units: Tensor) -> None:
        """Makes what leads to units (bool [U]) 0, for every task, and what their batch norms give."""
        for name in self.layers:
            rows = self.rows(name, units)
            for tensors in (self.tensors(), self._norms or {}, *self.own.values()):
                make_silent(name, rows, tensors)

    def values(self, task: int) -> dict[str, Tensor]:
        """What has to stand in the network for it to answer as after the task, by name.

        Of a shared output layer only what the task's units lead to counts.
        """
        head = self.heads[task]
        name = f"{head}.weight"
        weight = self.own[task].get(name, self.tensors()[name])
        reads = self.columns(head, self.masks[task])
        return {**self.own[task], name: weight.masked_fill(~_beside(reads, weight), 0)}

    def columns(self, layer: str, mask: Tensor) -> Tensor:
        """Which of a layer's inputs come from the units of a mask, or from the network's inputs: bool [in]."""
        reads = self.layers[layer].reads.to(mask.device)
        return (reads < 0) | mask[reads.clamp(min=0)]

    def rows(self, layer: str, mask: Tensor) -> Tensor:
        """Which of a layer's outputs are units of a mask: bool [out]; of an output layer none."""
        writes = self.layers[layer].writes.to(mask.device)
        return (writes >= 0) & mask[writes.clamp(min=0)]

    def constant_rows(self, layer: str) -> Tensor:
        """Which of a layer's outputs do not change any more: bool [out]. Inputs of the network never did."""
        of_inputs = self.layers[layer].writes.to(self.active.device) < 0
        per_channel = self.layers[layer].kind in ("norm", "depthwise")
        return self.rows(layer, self.active) | (of_inputs & per_channel)

    def taken(self, head: str) -> Tensor | None:
        """bool [U], units whose weights to an output layer belong to tasks; None where none does."""
        masks = [mask for task, mask in self.masks.items() if self.heads[task] == head]
        return torch.stack(masks).any(0) if masks else None

    def readers(self) -> list[str]:
        """Names of the layers that read units, the present output layer among them."""
        layers = self.units.layers.items()
        return [name for name, layer in layers if layer.kind in ("linear", "conv") and bool((layer.reads >= 0).any())]

    def free_of(self, group: int) -> int:
        """How many units of a group no task has claimed."""
        found = self.units.groups[group]
        return int((~self.active[found.start : found.start + found.size]).sum())

    @contextmanager
    def through(self, task: int | None) -> Iterator[None]:
        """Within, the network's own weights are those of a task; None for as they are."""
        before = self.shown
        try:
            self.show(task)
            yield
        finally:
            self.show(before)

    @torch.no_grad()
    def show(self, task: int | None) -> None:
        """Puts a task's values in their places, until another's are, or with None the present ones."""
        self.put_back_norms()
        found = self.tensors()
        for name, tensor in self._displaced.items():
            found[name].copy_(tensor)
        self._displaced = {}
        self.shown = task
        if task is not None:
            values = self.values(task)
            self._displaced = {name: found[name].clone() for name in values}
            for name, tensor in values.items():
                found[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """All of it, by name: a bit per unit and task, and what is a task's own."""
        return {
            **{f"mask/{task}/{self.heads[task]}": mask for task, mask in self.masks.items()},
            **{f"own/{task}/{name}": tensor for task, own in self.own.items() for name, tensor in own.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave, in the place of what there is.

        Raises:
            MethodError: if it is of another network.
        """
        self.show(None)
        self.masks, self.heads, self.own, self.labels, self._norms = {}, {}, {}, {}, None
        self.active = self.given.clone()
        found = self.tensors()
        for key, tensor in state.items():
            kind, number, name = [*key.split("/", 2), "", ""][:3]
            if kind not in ("mask", "own", "seen") or not number.isdigit():
                raise MethodError(f"'{key}' is no part of a state of CLNP; give what its state_dict() gave")
            if kind == "seen":
                continue
            task, here = int(number), tensor.to(self.active.device, copy=True)
            if kind == "mask":
                if len(here) != len(self.active):
                    raise MethodError(
                        f"this state of CLNP is of a network with {len(here)} units, but the network has "
                        f"{len(self.active)}; give it the network that it was saved with"
                    )
                self.masks[task], self.heads[task] = here, name
                self.own.setdefault(task, {})
                self.active |= here
            elif name not in found or found[name].shape != here.shape:
                raise MethodError(
                    f"this state of CLNP has '{name}' of shape {list(here.shape)}, which the network has not; give it "
                    "the network that it was saved with"
                )
            else:
                self.own.setdefault(task, {})[name] = here


def tasks_in(state: Mapping[str, Tensor]) -> list[int]:
    """The tasks that a state of `Claims` holds, in the order in which they were learned."""
    return [int(key.split("/", 2)[1]) for key in state if key.startswith("mask/")]


def _beside(columns: Tensor, weight: Tensor) -> Tensor:
    """bool [in], so shaped that it stands beside weights [out, in, ...]."""
    return columns.view(1, -1, *[1] * (weight.ndim - 2))
