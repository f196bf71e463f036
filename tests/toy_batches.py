"""Images that are all different, in three tasks, and what batches of them should hold."""

import torch

from clbench.data.streams import Permutation, Samples, Unchanged

ORDERS = ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2])


def toy_samples(n, task):
    """Images [n, 1, 2, 2] that are all different, whose pixels are moved in the task's own way."""
    number = torch.arange(n)
    images = torch.stack([number, 255 - number, number // 2, torch.full((n,), task)], 1).to(torch.uint8)
    change = Permutation(torch.tensor(ORDERS[task])) if task else Unchanged()
    # Every second image, backwards: positions and image numbers must not be confused.
    indices = torch.arange(n - 1, -1, -2)
    return Samples(images.view(n, 1, 2, 2), indices, indices % 10, change, task)


def toy_tasks():
    return [toy_samples(100, 0), toy_samples(14, 1), toy_samples(61, 2)]


def rows(batches):
    """Every image of these batches as (task label, label, pixels), in their order."""
    return [
        (t, y, *x)
        for batch in batches
        for x, y, t in zip(batch[0].flatten(1).tolist(), batch[1].tolist(), batch[2].tolist(), strict=True)
    ]


def expected_rows(parts):
    """The same from the definition of each task, one image after another."""
    found = []
    for part in parts:
        for index, label in zip(part.indices.tolist(), part.labels.tolist(), strict=True):
            pixels = (part.images[index].flatten().to(torch.float32) / 255)[ORDERS[part.task_label]]
            found.append((part.task_label, label, *pixels.tolist()))
    return found


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
