"""Sums over images of a function of the gradient of each; `per_sample_layers.py` has a rule for each kind of layer."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.networks.answer import answer, evaluating, with_memory
from clbench.networks.per_sample_layers import OfLinear, Rule, Size, rule_of
from clbench.networks.tracing import tensor_name

Numbers = Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor | None]]]

# So much memory may the images take that are looked at together in a network with convolutions.
_PIECE_BYTES = 2**27
_FIRST_PIECE = 4


def mean_over_samples(
    model: nn.Module,
    batches: Iterable[list[Tensor]],
    numbers: Numbers,
    size: Size,
    n_images: int | None = None,
) -> dict[str, Tensor]:
    """The mean over samples of a function of the gradients of some numbers, by parameter.

    Args:
        model: parameters in layers that `per_sample_layers.py` has a rule for, each called once per forward pass; seen
            in evaluation mode.
        batches: `[x, y, task_labels]` as loaders give them.
        numbers: from logits [B, C] and labels y [B], pairs: a sum over images of what is differentiated, and how much
            each image counts for it, [B, 1] (None for 1). What they give adds up.
        size: element by element, the function of a gradient.
        n_images: stop after this many; None takes all.

    Raises:
        MethodError: if some parameter belongs to another kind of layer.
    """
    if reason := unsupported(model):
        raise MethodError(reason)
    layers = _layers(model)
    all_linear = all(rule_of(layer) is OfLinear for layer in layers.values())
    rules: dict[str, Rule] = {}
    outputs: dict[str, Tensor] = {}
    batches = iter(batches)
    if (first := next(batches, None)) is not None:
        if reason := _unsupported_use(model, layers, first[0][:1], first[2][:1]):
            raise MethodError(reason)
        batches = itertools.chain([first], batches)

    def remember(name: str, layer: nn.Module, x: Tensor, output: Tensor) -> None:
        rule = rule_of(layer)
        assert rule is not None
        with torch.no_grad():
            rules[name] = rule(layer, x, size)  # type: ignore[arg-type]
        outputs[name] = output

    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    seen = 0
    piece = None if all_linear else _FIRST_PIECE
    device = next(model.parameters()).device
    with evaluating(model), _watched(layers, remember):
        for batch in batches:
            # Loaders other than ours leave this to the training loop.
            whole = [tensor.to(device) for tensor in batch]
            if n_images is not None:
                whole = [tensor[: n_images - seen] for tensor in whole]
            start = 0
            while start < len(whole[0]):
                x, y, task_labels = (tensor[start : None if piece is None else start + piece] for tensor in whole)
                rules.clear()
                outputs.clear()
                used = set[str]()
                with torch.enable_grad():
                    logits = answer(model, x, task_labels)
                    for number, weight in numbers(logits, y):
                        outs = list(outputs.values())
                        deltas = torch.autograd.grad(number, outs, retain_graph=True, allow_unused=True)
                        with torch.no_grad():
                            for name, delta in zip(outputs, deltas, strict=True):
                                # Nothing depends on the output of a layer that another task answers through.
                                if delta is not None:
                                    rules[name].add(delta, weight)
                                    used.add(name)
                for name, rule in rules.items():
                    if name not in used:
                        continue
                    named = {kind: tensor_name(name, kind) for kind in ("weight", "bias")}
                    rule.finish({kind: total[full] for kind, full in named.items() if full in total})
                start += len(x)
                if piece is not None:
                    piece = max(1, _PIECE_BYTES * len(x) // max(1, sum(rule.nbytes for rule in rules.values())))
            seen += len(whole[0])
            if n_images is not None and seen >= n_images:
                break
    return {name: tensor / seen for name, tensor in total.items()}


def unsupported(model: nn.Module, image: Tensor | None = None) -> str:
    """Why the model's gradients cannot be taken sample by sample, in one sentence; empty where they can.

    Args:
        model: stays as it was.
        image: one to try it on [1, C, H, W]; None looks at the model's parts alone.
    """
    layers = _layers(model)
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        for kind, parameter in layer.named_parameters(recurse=False):
            # Others are what old forms of weight_norm and the like compute a weight from.
            if kind not in ("weight", "bias"):
                continue
            if id(parameter) in owner:
                other = owner[id(parameter)]
                return f"per-sample gradients need weights of one layer each, but {name} shares one with {other}"
            owner[id(parameter)] = name
    for name, parameter in model.named_parameters():
        if id(parameter) not in owner:
            return (
                "per-sample gradients need linear layers, convolutions (Conv2d) and batch norms with running "
                f"statistics, but {name} belongs to another kind"
            )
        if not parameter.requires_grad:
            return f"per-sample gradients need every weight to learn, but {name} is frozen"
    return "" if image is None else _unsupported_use(model, layers, image, torch.zeros(1, dtype=torch.long))


def _unsupported_use(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor, task_label: Tensor) -> str:
    is_defined = not image.is_meta
    if image.is_meta:
        model, image = with_memory(model, image)
        layers = _layers(model)
    used: dict[str, tuple[Tensor, Tensor]] = {}
    said: list[str] = []

    def look(name: str, layer: nn.Module, x: Tensor, output: Tensor) -> None:
        if name in used:
            said.append(f"per-sample gradients need each layer to be used once, but {name} is used more often")
        if len(x) != 1:
            said.append(f"per-sample gradients need one row per image, but {name} gets {len(x)} for one")
        if isinstance(layer, nn.Linear) and x.ndim != 2:
            said.append(f"per-sample gradients need one input per image, but {name} gets {list(x.shape[1:])}")
        used[name] = x.clone(), output

    # An image that no unit is silent on for want of anything to see.
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    with evaluating(model), _watched(layers, look), torch.enable_grad():
        logits = answer(model, noise, task_label)
        if not said and is_defined:
            said += _other_uses(logits, layers, used)
    if not said and is_defined:
        with evaluating(model), torch.no_grad():
            both = answer(model, torch.cat([noise, 1 - noise]), task_label.repeat(2))
        if not torch.allclose(both[:1], logits, rtol=1e-3, atol=1e-4 * float(both.abs().max())):
            said.append(
                "per-sample gradients need each image answered by itself, but here one changes another's answer"
            )
    return said[0] if said else ""


def _other_uses(
    logits: Tensor, layers: Mapping[str, nn.Module], used: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[str]:
    """The layers whose gradient is not what their rule says: their weights have a part elsewhere."""
    owned = {name: dict(layer.named_parameters(recurse=False)) for name, layer in layers.items()}
    weights = [(name, kind) for name, own in owned.items() for kind in own]
    tensors = [owned[name][kind] for name, kind in weights]
    found = torch.autograd.grad(logits.sum(), tensors, retain_graph=True, allow_unused=True)
    outputs = [output for _, output in used.values()]
    deltas = torch.autograd.grad(logits.sum(), outputs, allow_unused=True)
    expected = {name: {kind: torch.zeros_like(tensor) for kind, tensor in own.items()} for name, own in owned.items()}
    for (name, (x, _)), delta in zip(used.items(), deltas, strict=True):
        if delta is not None and (kind := rule_of(layers[name])) is not None:
            rule: Rule = kind(layers[name], x, lambda gradient: gradient)  # type: ignore[arg-type]
            rule.add(delta, None)
            rule.finish(expected[name])
    for (name, kind_of), gradient in zip(weights, found, strict=True):
        by_rule = expected[name][kind_of]
        whole = torch.zeros_like(by_rule) if gradient is None else gradient
        if not torch.allclose(whole, by_rule, rtol=1e-3, atol=1e-6 + 1e-4 * float(by_rule.abs().max())):
            yield f"per-sample gradients need weights of one layer each, but those of {name} are used elsewhere"


@contextmanager
def _watched(layers: Mapping[str, nn.Module], look: Callable[[str, nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Within, each layer is shown, by name, with its input and its output."""

    def hook(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        look(name, layer, (args[0] if args else next(iter(kwargs.values()))).detach(), output)
        # What comes next may work in place.
        return output.clone()

    hooks = [layer.register_forward_hook(partial(hook, name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """By name, those with weights that there is a rule for."""
    return {
        name: module
        for name, module in model.named_modules()
        if rule_of(module) is not None and getattr(module, "weight", None) is not None
    }
