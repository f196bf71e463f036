"""What a network answers, whether or not it takes the labels of tasks."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def answer(network: nn.Module, x: Tensor, task_labels: Tensor | int) -> Tensor:
    """Logits [B, C] for images [B, ...]: Avalanche's `avalanche_forward`, but that it does not import Avalanche.

    Args:
        network: gets the labels if it is one of Avalanche's `MultiTaskModule`.
        x: images.
        task_labels: int64 [B], or one for all.
    """
    # There is no such network as long as nothing has imported the class; doing so takes seconds.
    if "avalanche.models" in sys.modules:
        from avalanche.models.utils import avalanche_forward

        logits: Tensor = avalanche_forward(network, x, task_labels)
        return logits
    found: Tensor = network(x)
    return found


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Within, the network is in evaluation; afterwards every part has its own mode again."""
    modes = {part: part.training for part in network.modules()}
    try:
        yield network.eval()
    finally:
        for part, mode in modes.items():
            part.training = mode


def with_memory(network: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor]:
    """The same, or where they have no memory (torch's device "meta") a copy with zeros.

    The first pass on that device imports a compiler, which takes a second.
    """
    if not image.is_meta:
        return network, image
    made = copy.deepcopy(network)
    for module in made.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
    return made, torch.zeros(image.shape, dtype=image.dtype, device="cpu")


def layers_called(network: nn.Module, image: Tensor) -> list[str]:
    """Names of the linear layers and convolutions that an image [1, C, H, W] goes through, in that order.

    Through the first output layer, where there are several.
    """
    network, image = with_memory(network, image)
    found: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: found.append(name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        with evaluating(network), torch.no_grad():
            answer(network, image, 0)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def trains_on_one(network: nn.Module, image: Tensor) -> bool:
    """Whether the network can train on one image [1, C, H, W]; a batch norm behind a linear layer wants two.

    The network stays as it is.
    """
    if not batch_norms(network):
        return True
    # It may have no memory, and a pass in training moves statistics.
    network, image = with_memory(network, image)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer(copy.deepcopy(network).train(), image, 0)
    except ValueError:
        return False
    return True
