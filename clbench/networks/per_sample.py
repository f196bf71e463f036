"""Sums over samples of a function of the per-sample gradient, without forming any per-sample gradient.

For a linear layer with input x [N_in] and output o [N_out], the gradient of a scalar s with respect to the weight
is the outer product delta x^T with delta = ds/do. Its square is the outer product of delta^2 and x^2, its size that
of |delta| and |x|, so that the sum over a batch is one matrix product.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.networks.answer import answer, with_memory

Factors = Callable[[Tensor, Tensor, Sequence[Tensor]], list[Tensor]]


def mean_over_samples(
    model: nn.Module,
    batches: Iterable[list[Tensor]],
    factors: Factors,
    of_input: Callable[[Tensor], Tensor],
    n_images: int | None = None,
) -> dict[str, Tensor]:
    """The mean over samples of `factor of the output x of_input(input)`, by parameter; a bias has input 1.

    Args:
        model: parameters in `nn.Linear` layers only, each called once per forward pass; seen in evaluation mode.
        batches: `[x, y, task_labels]` as loaders give them.
        factors: from logits [B, C], labels y [B] and the outputs [B, N_out] of the layers that were used, the
            factor of each [B, N_out]; may be a sum of several products only if `of_input` fits them all.
        of_input: element by element, what becomes of a layer's input.
        n_images: stop after this many; None takes all.

    Raises:
        MethodError: if some parameter belongs to another kind of layer.
    """
    if reason := unsupported(model):
        raise MethodError(reason)
    layers = _linear_layers(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name], outputs[name] = args[0].detach(), output

        return hook

    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    was_training = model.training
    model.eval()
    hooks = [layer.register_forward_hook(remember(name)) for name, layer in layers.items()]
    seen = 0
    device = next(model.parameters()).device
    try:
        for batch in batches:
            # Loaders other than ours leave this to the training loop.
            x, y, task_labels = (tensor.to(device) for tensor in batch)
            if n_images is not None:
                x, y, task_labels = (tensor[: n_images - seen] for tensor in (x, y, task_labels))
            inputs.clear()
            outputs.clear()
            with torch.enable_grad():
                logits = answer(model, x, task_labels)
                used = list(outputs)
                found = factors(logits, y, [outputs[name] for name in used])
            for name, factor in zip(used, found, strict=True):
                total[f"{name}.weight" if name else "weight"].addmm_(factor.T, of_input(inputs[name]))
                if layers[name].bias is not None:
                    total[f"{name}.bias" if name else "bias"].add_(factor.sum(0))
            seen += len(x)
            if n_images is not None and seen >= n_images:
                break
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return {name: tensor / seen for name, tensor in total.items()}


def unsupported(model: nn.Module, image: Tensor | None = None) -> str:
    """Why the model's gradients cannot be taken sample by sample, in one sentence; empty where they can.

    Args:
        model: stays as it was.
        image: one to try it on [1, C, H, W]; None looks at the model's parts alone.
    """
    layers = _linear_layers(model)
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        for parameter in layer.parameters(recurse=False):
            if id(parameter) in owner:
                other = owner[id(parameter)]
                return f"per-sample gradients need weights of one layer each, but {name} shares one with {other}"
            owner[id(parameter)] = name
    for name, parameter in model.named_parameters():
        if id(parameter) not in owner:
            return f"per-sample gradients need linear layers only so far, but {name} belongs to another kind"
        if not parameter.requires_grad:
            return f"per-sample gradients need every weight to learn, but {name} is frozen"
    return "" if image is None else _unsupported_use(model, layers, image)


def _unsupported_use(model: nn.Module, layers: Mapping[str, nn.Linear], image: Tensor) -> str:
    is_defined = not image.is_meta
    if image.is_meta:
        model, image = with_memory(model, image)
        layers = _linear_layers(model)
    used: dict[str, tuple[Tensor, Tensor]] = {}
    said: list[str] = []

    def look(name: str, args: tuple[Tensor, ...], output: Tensor) -> None:
        if name in used:
            said.append(f"per-sample gradients need each layer to be used once, but {name} is used more often")
        if args[0].ndim != 2:
            said.append(f"per-sample gradients need one input per image, but {name} gets {list(args[0].shape[1:])}")
        used[name] = args[0].detach(), output

    modes = {part: part.training for part in model.modules()}
    hooks = [
        layer.register_forward_hook(lambda _, args, output, name=name: look(name, args, output))
        for name, layer in layers.items()
    ]
    try:
        # An image that no unit is silent on for want of anything to see.
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
        with torch.enable_grad():
            logits = answer(model.eval(), noise, torch.zeros(1, dtype=torch.long))
            if not said and is_defined:
                said += _other_uses(logits, layers, used)
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return said[0] if said else ""


def _other_uses(
    logits: Tensor, layers: Mapping[str, nn.Linear], used: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[str]:
    """The layers whose gradient is not the outer product that it must be: their weights have a part elsewhere."""
    weights = [layer.weight for layer in layers.values()]
    found = torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True)
    outputs = [output for _, output in used.values()]
    deltas = torch.autograd.grad(logits.sum(), outputs, allow_unused=True)
    expected = {
        name: delta.T @ x for (name, (x, _)), delta in zip(used.items(), deltas, strict=True) if delta is not None
    }
    for name, gradient in zip(layers, found, strict=True):
        whole = torch.zeros_like(layers[name].weight) if gradient is None else gradient
        if not torch.allclose(whole, expected.get(name, torch.zeros_like(whole)), rtol=1e-3, atol=1e-6):
            yield f"per-sample gradients need weights of one layer each, but those of {name} are used elsewhere"


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name; a subclass that computes something else is none."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    }
