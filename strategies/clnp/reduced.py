"""Training some units of a network in a smaller network that stands in its place: faster, for a runner of one's own.

The same within rounding as `dense.py`, which other plugins see through.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from clbench.data.loading import TensorLoader
from clbench.methods.method import EVALUATION_BATCH
from clbench.networks.reduced import Part, ReducedNetwork, seen_only
from clbench.strategies.clnp.claims import Claims
from clbench.strategies.clnp.dense import Step


class Reduced:
    """Trains units of the claims' network in a reduced one, from `enter` to `leave`; `strategy.model` is that one.

    Args:
        claims: of the network.
        own_norms: whether every task has its own batch norms.
        notes: whether what units give in training is asked for.
    """

    def __init__(self, claims: Claims, *, own_norms: bool, notes: bool) -> None:
        self.claims = claims
        self._own_norms = own_norms
        self._notes = notes
        self.network: ReducedNetwork | None = None
        self._loader: TensorLoader | None = None
        self._hooks: list[Any] = []
        self.optimizer: Any = None

    def enter(
        self, strategy: Any, trainable: Tensor, kept: Tensor, fixed: Tensor | None, before: Step, after: Step
    ) -> None:
        """From here on these units alone train, with a new state of the optimiser. Arguments as for `Dense.enter`."""
        self.leave()
        claims = self.claims
        part = Part(claims.active & kept, trainable, fixed_outputs=fixed, own_norms=self._own_norms)
        network = ReducedNetwork(claims.network, claims.units, part).train(claims.network.training)
        self._strategy, self.optimizer = strategy, strategy.optimizer
        self._whole = [list(group["params"]) for group in self.optimizer.param_groups]
        parts = self._parts(network)
        self.optimizer.state.clear()
        for group, whole in zip(self.optimizer.param_groups, self._whole, strict=True):
            # Parameters of other heads have no part in this task.
            group["params"] = [part for parameter in whole for part in parts.get(parameter, [])]
        self.network = strategy.model = network
        if self._notes:
            self._noting = network.noting()
            self._noting.__enter__()
        hooks = self.optimizer.register_step_pre_hook, self.optimizer.register_step_post_hook
        for register, act in zip(hooks, (before, after), strict=True):
            self._hooks.append(register(lambda *_, act=act: act(network.weights)))

    def _parts(self, network: ReducedNetwork) -> dict[Tensor, list[nn.Parameter]]:
        """What trains in the place of each parameter."""
        whole = dict(self.claims.network.named_parameters())
        found: dict[Tensor, list[nn.Parameter]] = {}
        for name, layer in network.layers.items():
            found[whole[f"{name}.weight"]] = layer.weights
            if layer.bias is not None:
                found[whole[f"{name}.bias"]] = [layer.bias]
        for name, other in network.others.items():
            for part in other.trained:
                for kind, parameter in part.named_parameters():
                    found.setdefault(whole[f"{name}.{kind}"], []).append(parameter)
        return found

    def leave(self) -> None:
        """Back to the whole network, with what was trained in it."""
        if self.network is None:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.network.write_back(self.claims.network)
        self._strategy.model = self.claims.network.train(self.network.training)
        self.optimizer.state.clear()
        for group, whole in zip(self.optimizer.param_groups, self._whole, strict=True):
            group["params"] = whole
        self.network, self._loader = None, None

    def listen(self, now: bool) -> None:
        """Does nothing: no other pass goes through the reduced network."""

    def suspend(self) -> None:
        """Lets the whole network answer for a while, with what was trained so far in it."""
        if self.network is not None:
            self.network.write_back(self.claims.network)
            self._strategy.model = self.claims.network.eval()

    def resume(self) -> None:
        """Lets the reduced network train on."""
        if self.network is not None:
            self._strategy.model = self.network

    def activities(self, strengths: Sequence[float]) -> Iterator[tuple[float, Tensor, int]]:
        """For each group with a strength: that, the mean sizes of its free units' activity in the batch, its size."""
        assert self.network is not None
        active = self.claims.active
        for number, group in enumerate(self.claims.units.groups):
            if not strengths[number]:
                continue
            found = []
            for name in group.readers:
                layer = self.network.layers[name]
                # Free units are none of the constant ones.
                units, others = layer.inputs.units[layer.n_inputs[0] :], layer.given[1]
                free = (units >= group.start) & (units < group.start + group.size) & ~active[units.clamp(min=0)]
                columns = free.nonzero().squeeze(1)
                if len(columns) and others is not None:
                    n_units = int(units[columns].unique().numel())
                    first = int(columns[0])
                    in_order = int(columns[-1]) - first + 1 == len(columns)
                    x = others[:, first : first + len(columns)] if in_order else others[:, columns]
                    sizes = x.float().abs().mean([0, *range(2, x.ndim)])
                    found.append(sizes.view(n_units, -1).mean(1))
            if found:
                yield strengths[number], torch.stack(found).mean(0), group.size

    def measuring(self) -> tuple[ReducedNetwork, Callable[[Tensor], None]]:
        """The network as it is being trained, and what to tell before it is given images."""
        assert self.network is not None
        return self.network, self.expect

    # -- Answers of constant neurons ---------------------------------------------------------------------------

    def expect(self, images: Tensor) -> None:
        """Says which images come next: what is known of them is not computed again."""
        if self._loader is not None and self.network is not None:
            self.network.at_images(self._loader.positions(images))

    @torch.no_grad()
    def answer_once(self, strategy: Any, precision: Callable[[], AbstractContextManager[Any]], budget: int) -> None:
        """Computes what constant neurons of linear layers give for the task's images, the same until its end.

        Convolutions are left out: what they give is an image for each filter.

        Args:
            strategy: whose loader gives the images.
            precision: of training.
            budget: bytes; a layer that no longer fits computes at every step.
        """
        loader, network = strategy.dataloader, self.network
        assert network is not None
        if not (budget and bool(self.claims.active.any()) and isinstance(loader, TensorLoader)):
            return
        if len(loader) * loader.batch_size * strategy.train_epochs < loader.n_images:
            # Fewer answers would be needed than there are images.
            return
        kept = loader.resident()
        if kept is None:
            return
        images = kept[0]
        claims = self.claims
        constant = ReducedNetwork(claims.network, claims.units, seen_only(network.part.constant)).eval()
        answers: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor, start: int) -> None:
            nonlocal budget
            if start == 0 and output.shape[1] and output.ndim == 2:
                needed = len(images) * output.shape[1] * output.element_size()
                if needed <= budget:
                    budget -= needed
                    answers[name] = output.new_empty(len(images), output.shape[1])
            if name in answers:
                answers[name][start : start + len(output)] = output

        start = 0
        hidden = [name for name in constant.layers if name not in claims.units.outputs]
        for name in hidden:
            constant.layers[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output, start))
        for start in range(0, len(images), EVALUATION_BATCH):
            with precision():
                constant(images[start : start + EVALUATION_BATCH])
            if not answers:
                return
        self._loader = loader
        for name, found in answers.items():
            network.layers[name].answers = found
