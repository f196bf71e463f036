"""Training some units of a network in its own parameters: the rest of them is held, whatever the optimiser does.

For anyone's loop. Every other plugin sees the model's true parameters and their true gradients. Right before the
optimiser's step the gradients of what is held become 0, and right after it the values from before are put back, since
momentum, weight decay and penalties move a weight without a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.strategies.clnp.claims import Claims

Step = Callable[[list[nn.Parameter]], None]


class Held:
    """What of a parameter is held.

    Args:
        parameter: [out, ...] or [out, in, ...].
        rows, columns: bool [out] and bool [in], of what is held; None for no column.
    """

    def __init__(self, parameter: nn.Parameter, rows: Tensor, columns: Tensor | None = None) -> None:
        self.parameter = parameter
        self._rows = rows.nonzero().squeeze(1)
        self._columns = None if columns is None or not columns.any() else columns.nonzero().squeeze(1)
        self._row_values = parameter.detach().index_select(0, self._rows)
        self._column_values = None if self._columns is None else parameter.detach().index_select(1, self._columns)

    @torch.no_grad()
    def hold_gradient(self) -> None:
        """Gives what is held a gradient of 0."""
        if self.parameter.grad is not None:
            self.parameter.grad.index_fill_(0, self._rows, 0)
            if self._columns is not None:
                self.parameter.grad.index_fill_(1, self._columns, 0)

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives what is held its values from the beginning."""
        if self.parameter.grad is None:
            # The optimiser has passed it over.
            return
        if len(self._rows):
            self.parameter.index_copy_(0, self._rows, self._row_values)
        if self._columns is not None:
            assert self._column_values is not None
            self.parameter.index_copy_(1, self._columns, self._column_values)


class FrozenChannels:
    """A forward hook of a batch norm: some channels are normalised by their stored statistics, and keep these.

    Args:
        norm: the layer.
        channels: bool [C], which.
    """

    def __init__(self, norm: nn.Module, channels: Tensor) -> None:
        self.channels = channels
        self.mean = norm.running_mean[channels].clone()  # type: ignore[index]
        self.variance = norm.running_var[channels].clone()  # type: ignore[index]

    def __call__(self, norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """What the layer gives in training, the frozen channels replaced."""
        if not norm.training:
            return output
        frozen = nn.functional.batch_norm(
            args[0][:, self.channels],
            self.mean,
            self.variance,
            None if norm.weight is None else norm.weight[self.channels],
            None if norm.bias is None else norm.bias[self.channels],
            eps=norm.eps,
        )
        output = output.clone()
        output[:, self.channels] = frozen.to(output.dtype)
        return output

    @torch.no_grad()
    def put_back(self, norm: Any) -> None:
        """Gives the channels their statistics again. Not before the backward pass, which needs what it saw."""
        norm.running_mean[self.channels] = self.mean
        norm.running_var[self.channels] = self.variance


class Notes:
    """A forward pre-hook that remembers what a layer was given while it listens. Copies remember nothing."""

    def __init__(self) -> None:
        self.given: Tensor | None = None
        self.listens = False

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        """Remembers the layer's input."""
        if self.listens:
            self.given = args[0] if args else next(iter(kwargs.values()))

    def __reduce__(self) -> tuple[type["Notes"], tuple[()]]:
        return Notes, ()


class Dense:
    """Trains units of the claims' network in place, from `enter` to `leave`.

    Args:
        claims: of the network.
        own_norms: whether every task has its own batch norms.
        notes: whether what units give in training is asked for.
    """

    def __init__(self, claims: Claims, *, own_norms: bool, notes: bool) -> None:
        self.claims = claims
        self._own_norms = own_norms
        self._notes_activities = notes
        self._held: list[Held] = []
        self._frozen: list[tuple[nn.Module, FrozenChannels]] = []
        self._hooks: list[Any] = []
        self._notes: dict[str, Notes] = {}
        self._weights: list[nn.Parameter] = []
        self.optimizer: torch.optim.Optimizer | None = None

    def enter(
        self, strategy: Any, trainable: Tensor, kept: Tensor, fixed: Tensor | None, before: Step, after: Step
    ) -> None:
        """From here on the optimiser moves these units alone, with a new state.

        Args:
            strategy: with the optimiser.
            trainable, kept: bool [U], units that train, and those that take part.
            fixed: bool [U], units whose weights to the output layer are held as well; None for none.
            before, after: get the weights that may train, around every step.
        """
        self.leave()
        self.optimizer = strategy.optimizer
        self.optimizer.state.clear()
        self._hold(trainable, kept, fixed)
        if self._notes_activities:
            self._notes = {name: Notes() for name in self.claims.readers()}
            modules = dict(self.claims.network.named_modules())
            for name, notes in self._notes.items():
                self._hooks.append(modules[name].register_forward_pre_hook(notes, with_kwargs=True))

        def hold(*_: Any) -> None:
            before(self._weights)
            for held in self._held:
                held.hold_gradient()

        def put_back(*_: Any) -> None:
            after(self._weights)
            self._put_back()

        hooks = self.optimizer.register_step_pre_hook, self.optimizer.register_step_post_hook
        self._hooks += [hooks[0](hold), hooks[1](put_back)]

    def _hold(self, trainable: Tensor, kept: Tensor, fixed: Tensor | None) -> None:
        claims = self.claims
        head = claims.units.outputs[0]
        parameters = dict(claims.network.named_parameters())
        modules = dict(claims.network.named_modules())
        used: set[str] = set()
        self._held, self._weights = [], []
        for name, layer in claims.units.layers.items():
            names = [key for key in (f"{name}.weight", f"{name}.bias") if key in parameters]
            used.update(names)
            if layer.kind == "norm" and self._own_norms:
                continue
            is_head = name == head
            held = torch.zeros_like(layer.writes, dtype=torch.bool, device=kept.device)
            if not is_head:
                held = ~claims.rows(name, trainable)
            for key in names:
                parameter, columns = parameters[key], None
                if key.endswith(".weight") and layer.kind in ("linear", "conv"):
                    columns = ~claims.columns(name, kept)
                    if is_head and fixed is not None:
                        columns |= claims.columns(name, fixed)
                    self._weights.append(parameter)
                if parameter.requires_grad and (held.any() or (columns is not None and columns.any())):
                    self._held.append(Held(parameter, held, columns))
            if layer.kind == "norm" and (claimed := claims.constant_rows(name)).any():
                frozen = FrozenChannels(modules[name], claimed)
                self._frozen.append((modules[name], frozen))
                self._hooks.append(modules[name].register_forward_hook(frozen))
        for key, parameter in parameters.items():
            # Other heads.
            if key not in used and parameter.requires_grad and parameter.ndim:
                everything = torch.ones(len(parameter), dtype=torch.bool, device=parameter.device)
                self._held.append(Held(parameter, everything))

    def leave(self) -> None:
        """Lets the optimiser move everything again, and leaves no hook behind."""
        for hook in self._hooks:
            hook.remove()
        # Of a step that was interrupted.
        self._put_back()
        self._frozen = []
        self._hooks, self._held, self._notes, self._weights = [], [], {}, []

    def _put_back(self) -> None:
        for held in self._held:
            held.put_back()
        for norm, frozen in self._frozen:
            frozen.put_back(norm)

    def listen(self, now: bool) -> None:
        """Says whether a pass through the network is the strategy's own, whose activities count."""
        for notes in self._notes.values():
            notes.listens = now

    def suspend(self) -> None:
        """It is the whole network that trains. What a step that was interrupted has moved is put back."""
        self._put_back()

    def resume(self) -> None:
        """Does nothing."""

    def activities(self, strengths: Sequence[float]) -> Iterator[tuple[float, Tensor, int]]:
        """For each group with a strength: that, the mean sizes of its free units' activity in the batch, its size."""
        claims = self.claims
        for number, group in enumerate(claims.units.groups):
            free = ~claims.active[group.slice]
            if not strengths[number] or not free.any():
                continue
            found = []
            for name in group.readers:
                x = self._notes[name].given
                assert x is not None
                sizes = x.float().abs().mean([0, *range(2, x.ndim)])
                units = claims.layers[name].reads.to(sizes.device) - group.start
                mine = (units >= 0) & (units < group.size)
                total = sizes.new_zeros(group.size).index_add(0, units[mine], sizes[mine])
                found.append(total / max(1, int(mine.sum()) // group.size))
            yield strengths[number], torch.stack(found).mean(0)[free], group.size

    def measuring(self) -> tuple[ReducedNetwork, Callable[[Tensor], None]]:
        """The network with what was trained in it, and what to tell before it is given images, which is nothing."""
        claims = self.claims
        everything = torch.ones_like(claims.active)
        return ReducedNetwork(claims.network, claims.units, seen_only(everything)), lambda images: None
