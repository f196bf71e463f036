"""Sample images of the tasks, which a record keeps to show what was trained on."""

from typing import TYPE_CHECKING, Any

from clbench.data.streams import Stream

if TYPE_CHECKING:
    from torch import Tensor

_MOST_TASKS, _PER_TASK = 10, 8
# Larger images are shrunk, or the picture would be most of a record.
_LARGEST_SIDE = 32


def sample_images(stream: Stream) -> "tuple[dict[str, Any], Tensor | None]":
    """The first test images of each of the first tasks, one class after another, as the task shows them.

    Returns:
        What config.json says of them, and the images, uint8 [T, n, C, H, W]; nothing where they have neither one
        channel nor three.
    """
    import torch

    channels, height, width = stream.image_shape
    if channels not in (1, 3):
        return {}, None
    tasks = stream.tasks[:_MOST_TASKS]
    n_images = min(_PER_TASK, *(len(task.test) for task in tasks))
    rows = []
    for task in tasks:
        # Round after round, so that every class is there before one is there twice.
        by_class = task.test.labels.argsort(stable=True)
        labels = task.test.labels[by_class]
        rounds = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
        chosen = by_class[rounds.argsort(stable=True)[:n_images]]
        images = task.test.images[task.test.indices[chosen]].to(torch.float32).div(255)
        shown = task.test.change(images)
        if max(height, width) > _LARGEST_SIDE:
            scale = _LARGEST_SIDE / max(height, width)
            size = (max(1, round(scale * height)), max(1, round(scale * width)))
            shown = torch.nn.functional.interpolate(shown, size, mode="area")
        rows.append(shown.mul(255).round().clamp(0, 255).to(torch.uint8))
    described = {"tasks": [task.name for task in tasks], "per_task": n_images, "side": rows[0].shape[2]}
    return described, torch.stack(rows)
