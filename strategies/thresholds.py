"""How CLNP prunes: the largest thresholds on activity that cost no more validation accuracy than the margin.

Source: Golkar, Kagan and Cho 2019 (arXiv 1903.04476), graceful forgetting. The paper does not say how its thresholds
are found: here layer by layer in order, by bisection over the activities that occur.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from clbench.errors import MethodWarning

if TYPE_CHECKING:
    from clbench.strategies.clnp import CLNPPlugin


class Validation:
    """Accuracy of a network on validation data under masks, computing again only what may have changed.

    Args:
        plugin: whose hidden layers and masks these are.
        model: the network.
        batches: `[x, y, task_labels]` on the network's device, the same ones whenever they are iterated over.
    """

    def __init__(self, plugin: "CLNPPlugin", model: nn.Module, batches: Iterable[Sequence[Tensor]]) -> None:
        self.plugin = plugin
        self.model = model
        self.batches = batches

    @cached_property
    def n_images(self) -> int:
        """How many images the accuracy is measured on."""
        return sum(len(y) for _, y, _ in self.batches)

    @torch.no_grad()
    def accuracy(self, masks: list[Tensor] | None) -> float:
        """Share of the validation images classified correctly; None stands for the whole network."""
        was_training = self.model.training
        self.model.eval()
        correct = 0
        with self.plugin._seen_through(masks):
            for number, (x, y, labels) in enumerate(self.batches):
                self._batch = number
                correct += int((avalanche_forward(self.model, x, labels).argmax(1) == y).sum())
        self.model.train(was_training)
        return correct / self.n_images

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Within, the hidden layers up to `number` (from 0) compute once per batch and then repeat themselves.

        For a search that changes the masks of layer `number` and later: what lies before does not depend on
        them.
        """
        held = [layer.linear for layer in self.plugin.layers[: number + 1]]
        replaced = [vars(linear).get("forward") for linear in held]
        for linear in held:
            outputs: dict[int, Tensor] = {}

            def repeat(
                x: Tensor, forward: Callable[[Tensor], Tensor] = linear.forward, outputs: dict[int, Tensor] = outputs
            ) -> Tensor:
                if self._batch not in outputs:
                    outputs[self._batch] = forward(x)
                # A copy, because an activation function may work in place.
                return outputs[self._batch].clone()

            linear.forward = repeat
        try:
            yield
        finally:
            for linear, forward in zip(held, replaced, strict=True):
                del linear.forward
                if forward is not None:
                    linear.forward = forward


def choose_thresholds(
    activity: list[Tensor],
    active: list[Tensor],
    validation: Validation,
    margin: float,
    shares: Sequence[float] | None = None,
    *,
    global_threshold: bool,
) -> tuple[list[Tensor], list[float], list[float]]:
    """Prunes free neurons while the validation accuracy stays within the margin of the unpruned network's.

    Args:
        activity: per hidden layer, mean output of every neuron, [N_l].
        active: per hidden layer, bool [N_l]: neurons of earlier tasks, which stay.
        validation: measures the accuracy.
        margin: accuracy in percentage points that may be lost, by all layers together. As floats round, what costs
            exactly so much may be one image too much.
        shares: in what proportion the layers may spend it, one number for each; None for evenly. What an early layer
            does not spend passes on to the later.
        global_threshold: one threshold for all layers, instead of one for each; it takes no shares.

    Returns:
        Per layer: the mask (bool [N_l], what stays), theta_l, and the points of accuracy it cost.
    """
    base = validation.accuracy(None)
    if 0 < margin < 100 / validation.n_images:
        warnings.warn(
            f"CLNP's margin of {margin:g} points is less than one of its {validation.n_images} validation images; in "
            "effect it is 0",
            MethodWarning,
            stacklevel=2,
        )
    numbers = range(len(active))
    groups = [list(numbers)] if global_threshold else [[number] for number in numbers]
    masks = [torch.ones_like(mask) for mask in active]
    thresholds, spent = [0.0] * len(active), [0.0] * len(active)
    accuracy = base
    parts = [1.0] * len(groups) if shares is None or global_threshold else list(shares)
    for position, group in enumerate(groups):
        allowed = base - margin * (sum(parts[: position + 1]) / sum(parts)) / 100

        def pruned(theta: float, group: list[int] = group, masks: list[Tensor] = masks) -> list[Tensor]:
            return [
                mask & (active[number] | (activity[number] > theta)) if number in group else mask
                for number, mask in enumerate(masks)
            ]

        candidates = torch.cat([activity[number][~active[number]] for number in group]).unique()
        # Silent neurons go whatever the threshold; from here on they need not be computed with.
        with validation.plugin._reduced_to(pruned(0.0)), validation.holding(group[0]):
            theta, reached = largest_threshold(
                [0.0, *candidates[candidates > 0].tolist()],
                lambda theta, pruned=pruned: validation.accuracy(pruned(theta)),  # type: ignore[misc]
                allowed,
            )
        if reached is None:
            warnings.warn(
                f"CLNP pruned nothing in hidden layer {group[0] + 1}: even without its silent neurons the "
                f"validation accuracy falls below {100 * allowed:.2f} %",
                MethodWarning,
                stacklevel=2,
            )
            continue
        masks = pruned(theta)
        for number in group:
            thresholds[number] = theta
            spent[number] = 100 * (accuracy - reached) / len(group)
        accuracy = reached
    return masks, thresholds, spent


def largest_threshold(
    candidates: list[float], accuracy: Callable[[float], float], allowed: float
) -> tuple[float, float | None]:
    """Bisection for the largest candidate (ascending) whose accuracy is allowed, and that accuracy.

    Returns:
        0 and None if not even the smallest is allowed.
    """
    reached = accuracy(candidates[0])
    if reached < allowed:
        return 0.0, None
    low, high = 0, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        found = accuracy(candidates[middle])
        if found >= allowed:
            low, reached = middle, found
        else:
            high = middle
    return candidates[low], reached
