"""What CLNP asks of an Avalanche strategy: its images, its precision, and an epoch of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.models import MultiTaskModule
from torch import Tensor

from clbench.data.loading import TensorLoader
from clbench.errors import MethodError
from clbench.strategies.clnp.validation import ONE_LABEL


def sample_of(strategy: Any) -> tuple[Tensor, Tensor]:
    """An image of the experience [1, ...] and its task label [1], on the device.

    Raises:
        MethodError: if images are no tensors, or have several labels.
    """
    image, target, *rest = strategy.experience.dataset[0]
    # A data set without task labels is one task's.
    label = rest[-1] if rest else 0
    if getattr(target, "ndim", 0) > 0 or isinstance(target, list | tuple):
        raise MethodError(ONE_LABEL)
    return tensor_of(image).unsqueeze(0).to(strategy.device), torch.tensor([int(label)], device=strategy.device)


def label_of(model: Any, task_labels: Tensor | int) -> int:
    """The task label by which a model is to be seen; 0 for one that takes none, which is the same for all tasks."""
    if not isinstance(model, MultiTaskModule):
        return 0
    return task_labels if isinstance(task_labels, int) else int(task_labels.flatten()[0])


def tensor_of(image: Any) -> Tensor:
    """The image, which must be a tensor or an array.

    Raises:
        MethodError: if it is none.
    """
    try:
        return torch.as_tensor(image)
    except (RuntimeError, TypeError, ValueError):
        raise MethodError(
            f"CLNP needs images as tensors, but the experience gives {type(image).__module__}.{type(image).__name__}; "
            "give its data set a transform, such as torchvision.transforms.ToTensor(), for training and for evaluation"
        ) from None


def check_alone(plugin: Any, strategy: Any) -> None:
    """Refuses a second plugin of the same kind beside it.

    Raises:
        MethodError: if the strategy has one.
    """
    if sum(type(other) is type(plugin) for other in strategy.plugins) > 1:
        raise MethodError("the strategy has two CLNPPlugins, which would claim the same units; give it one")


def check_images(source: Any) -> None:
    """Refuses a data set to prune on whose images are no tensors.

    Raises:
        MethodError: if so.
    """
    if isinstance(source, AvalancheDataset):
        tensor_of(source[0][0])


def check_optimizer(prepared: torch.optim.Optimizer | None, strategy: Any) -> None:
    """Refuses an optimizer that came after the task's was prepared to hold what is claimed.

    Raises:
        MethodError: if there is one.
    """
    if prepared is not strategy.optimizer:
        raise MethodError(
            "the strategy got another optimizer after CLNP had prepared for the task; list the plugin that does so "
            "before CLNPPlugin"
        )


def images_of(strategy: Any) -> Iterator[Tensor]:
    """The task's training images in batches, on the device."""
    for batch in strategy.dataloader:
        yield batch[0].to(strategy.device)


def may_mix_heads(strategy: Any) -> bool:
    """Whether the network answers by task labels, and batches may come from several tasks."""
    return isinstance(strategy.model, MultiTaskModule) and not isinstance(strategy.dataloader, TensorLoader)


def precision_of(strategy: Any) -> Callable[[], AbstractContextManager[Any]]:
    """The precision of training, where the strategy has one of its own."""
    return strategy.autocast if hasattr(strategy, "autocast") else nullcontext
