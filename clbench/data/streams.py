"""From a suite and a seed to the sequence of tasks, and to the Avalanche benchmark of the same data.

Letters: N images of shape [C, H, W]. Images stay uint8 and are shared by all tasks; a task is a choice of
images, a change to them (permutation, rotation) and a label for each. Nothing is copied per task until it is
trained on.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clbench.data import ImageSet
from clbench.data.augmentation import Augmentation
from clbench.data.normalisation import Normalisation
from clbench.errors import SettingError
from clbench.seeding import RandomStreams
from clbench.suites.suite import Suite

_IMAGES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Permutation:
    """Moves pixels: position p of the result is position `order[p]` of the image, the same in every channel.

    Attributes:
        order: int64 [H * W], each position once.
    """

    order: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Permutes float images [N, C, H, W]."""
        return images.flatten(2)[:, :, self.order.to(images.device)].view_as(images)


@dataclass(frozen=True)
class Rotation:
    """Turns images counter-clockwise about their centre, bilinear, 0 outside.

    Attributes:
        degrees: the angle.
    """

    degrees: float

    def __call__(self, images: Tensor) -> Tensor:
        """Rotates float images [N, C, H, W]."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.functional import rotate

        return rotate(images, self.degrees, interpolation=InterpolationMode.BILINEAR)


@dataclass(frozen=True)
class Unchanged:
    """Leaves images as they are."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the images."""
        return images


Change = Permutation | Rotation | Unchanged


@dataclass(frozen=True)
class Samples(torch.utils.data.Dataset[Any]):
    """Labelled images of one task; batches are made on demand from the shared uint8 images.

    Also a map-style dataset of (image, label) pairs, which is what Avalanche's own loaders read.

    Attributes:
        images: uint8 [M, C, H, W], shared by all tasks.
        indices: int64 [N], which of them belong here.
        labels: int64 [N], the class within the task's head.
        change: what the task does to an image.
        task_label: the task's number, from 0.
        normalisation: of the changed image; None leaves its pixels in [0, 1].
    """

    images: Tensor
    indices: Tensor
    labels: Tensor
    change: Change
    task_label: int
    normalisation: Normalisation | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.batch(torch.tensor([index]))
        return x[0], int(y)

    @cached_property
    def targets(self) -> list[int]:
        """The labels as a list, for Avalanche."""
        return self.labels.tolist()

    def batch(
        self,
        positions: Tensor,
        augment: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The samples at these positions: images as floats, augmented, changed and normalised, and labels.

        Args:
            positions: int64 [B].
            augment: takes uint8 images [B, C, H, W] and returns what to take in their place; None leaves them.
            device: where all that is computed; None for where the images are.

        Returns:
            float32 [B, C, H, W], in [0, 1] before they are normalised, and int64 [B].
        """
        images = self.images[self.indices[positions]].to(device)
        if augment is not None:
            images = augment(images)
        x = self.change(images.to(torch.float32).div_(255))
        x = x if self.normalisation is None else self.normalisation.apply_(x)
        return x, self.labels[positions].to(device)

    def with_those_of(self, other: "Samples") -> "Samples":
        """These and then the other ones, of the same task, as one set."""
        return replace(
            self, indices=torch.cat([self.indices, other.indices]), labels=torch.cat([self.labels, other.labels])
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All samples at once, as `batch` gives them."""
        return self.batch(torch.arange(len(self)))

    def on(self, device: torch.device) -> "Samples":
        """The same samples with their images, and no others, on that device, still uint8."""
        images = torch.empty(len(self), *self.images.shape[1:], dtype=torch.uint8, device=device)
        # In pieces, because the images may lie in a file that is larger than memory.
        for to, chosen in zip(images.split(_IMAGES_AT_A_TIME), self.indices.split(_IMAGES_AT_A_TIME), strict=True):
            to.copy_(self.images[chosen])
        return replace(
            self, images=images, indices=torch.arange(len(self), device=device), labels=self.labels.to(device)
        )


@dataclass(frozen=True)
class Task:
    """One task of the sequence.

    Attributes:
        index: its place, from 0; also its task label.
        name: what it is, in words.
        train, validation, test: its samples. No method trains on `validation`, but for one whose authors did and which
            looks at it for nothing else (`si.train_on_validation`).
    """

    index: int
    name: str
    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True)
class Stream:
    """The tasks of a suite in their order.

    Attributes:
        tasks: T tasks.
        image_shape: (C, H, W).
        n_outputs: outputs of the network, or of each of its heads.
        augmentation: what is done to images, and only to those, that are trained on; None for nothing.
    """

    tasks: Sequence[Task]
    image_shape: tuple[int, int, int]
    n_outputs: int
    augmentation: Augmentation | None = None

    def measured_on_validation(self) -> "Stream":
        """The same tasks with their validation samples in place of the test samples."""
        return replace(self, tasks=[replace(task, test=task.validation) for task in self.tasks])

    @cached_property
    def benchmark(self) -> Any:
        """The same tasks as an Avalanche benchmark with the streams `train`, `validation` and `test`."""
        return self._as_benchmark(lambda task: task.index)

    @cached_property
    def unlabelled_benchmark(self) -> Any:
        """The same, every task labelled 0: what Avalanche takes for a stream without labels."""
        return self._as_benchmark(lambda task: 0)

    def _as_benchmark(self, label: "Callable[[Task], int]") -> Any:
        from avalanche.benchmarks import dataset_benchmark
        from avalanche.benchmarks.utils import as_taskaware_classification_dataset
        from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset

        def datasets(split: str) -> list[Any]:
            return [
                as_taskaware_classification_dataset(
                    _make_taskaware_classification_dataset(getattr(task, split), task_labels=label(task))
                )
                for task in self.tasks
            ]

        return dataset_benchmark(
            datasets("train"), datasets("test"), other_streams_datasets={"validation": datasets("validation")}
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every task's choice, change and normalisation of images: two runs can show they saw the same."""
        digest = hashlib.sha256()
        for task in self.tasks:
            for samples in (task.train, task.validation, task.test):
                digest.update(samples.indices.numpy().tobytes() + samples.labels.numpy().tobytes())
            change, normalisation = task.train.change, task.train.normalisation
            if normalisation is not None:
                digest.update(repr(normalisation).encode())
            if isinstance(change, Permutation):
                digest.update(change.order.numpy().tobytes())
            else:
                digest.update(repr(change).encode())
        return digest.hexdigest()


def make_stream(suite: Suite, images: ImageSet, seeds: RandomStreams) -> Stream:
    """The suite's tasks.

    Permutations, class order and the validation split each come from their own random stream; the first task
    of `permuted` and `rotated` shows the images as they are. Task k's permutation depends on (seed, k) alone.

    Raises:
        SettingError: if the data set has too few classes or images for the suite.
    """
    shape = (images.train_images.shape[1], images.train_images.shape[2], images.train_images.shape[3])
    training, validation = _split_validation(images.train_labels, suite.validation_share, seeds)
    n_classes = len(images.class_names)
    per_task = classes_per_task(suite, images)
    order = torch.arange(n_classes)
    if suite.scenario == "split" and suite.class_order == "random":
        order = torch.randperm(n_classes, generator=seeds.generator("class-order"))
    # One head over all classes counts them from 0 in their order, any other the classes of its task.
    offset = per_task if suite.scenario == "split" and suite.head == "classes" else 0
    # Of all training images, so that neither the seed nor the share that is held out moves a pixel.
    normalisation = images.normalisation if suite.normalise else None
    crop_padding = suite.crop_padding if "crop" in suite.augmentation else 0
    augmentation = Augmentation(crop_padding, "flip" in suite.augmentation) if suite.augmentation else None

    def classes_of(index: int) -> Tensor:
        return order[index * per_task : (index + 1) * per_task]

    def task(index: int) -> Task:
        change: Change = Unchanged()
        classes = order
        name = "images as they are"
        if suite.scenario == "permuted" and index > 0:
            pixels = shape[1] * shape[2]
            change = Permutation(torch.randperm(pixels, generator=seeds.generator("permutation", index)))
            name = f"permutation {index}"
        elif suite.scenario == "rotated" and index > 0:
            change = Rotation(index * 180 / suite.n_tasks)
            name = f"turned by {change.degrees:g} degrees"
        elif suite.scenario == "split":
            classes = classes_of(index)
            name = " / ".join(images.class_names[c] for c in classes.tolist())

        # In the order in which the task lists them.
        within_head = torch.full((n_classes,), -1)
        within_head[classes] = torch.arange(len(classes)) + index * offset

        def samples(source: Tensor, labels: Tensor, candidates: Tensor) -> Samples:
            local = within_head[labels[candidates]]
            chosen = local >= 0
            return Samples(source, candidates[chosen], local[chosen], change, index, normalisation)

        return Task(
            index=index,
            name=name,
            train=samples(images.train_images, images.train_labels, training),
            validation=samples(images.train_images, images.train_labels, validation),
            test=samples(images.test_images, images.test_labels, torch.arange(len(images.test_labels))),
        )

    tasks = [task(index) for index in range(suite.n_tasks)]
    for made in tasks:
        for what, part in (("training", made.train), ("validation", made.validation), ("test", made.test)):
            if not len(part):
                raise SettingError(
                    f"task {made.index + 1} of {suite.n_tasks} has no {what} image, with "
                    f"validation_share={suite.validation_share:g}; give another share, or more images"
                )
        if suite.scenario == "split":
            _check_classes(made, classes_of(made.index), images)
    return Stream(tasks, shape, outputs_of(suite, images), augmentation)


def _check_classes(task: Task, classes: Tensor, images: ImageSet) -> None:
    """Refuses a task with a class that cannot be learned, or not be tested.

    Raises:
        SettingError: naming the class.
    """
    parts = (("training", task.train, images.train_labels), ("test", task.test, images.test_labels))
    for what, part, labels in parts:
        missing = classes[~torch.isin(classes, labels[part.indices])]
        if len(missing):
            there_are = int((labels == missing[0]).sum())
            beside = f" beside the {there_are} held out" if what == "training" else ""
            raise SettingError(
                f"the class '{images.class_names[int(missing[0])]}' of task {task.index + 1} has no {what} image"
                f"{beside}; give it more images, or leave it out"
            )


def outputs_of(suite: Suite, images: ImageSet) -> int:
    """Outputs of the suite's network, or of each of its heads.

    Raises:
        SettingError: if the images have too few classes, or they do not divide into the tasks.
    """
    per_task = classes_per_task(suite, images)
    return suite.n_tasks * per_task if suite.scenario == "split" and suite.head == "classes" else per_task


def classes_per_task(suite: Suite, images: ImageSet) -> int:
    """How many classes each task has.

    Raises:
        SettingError: if the images have too few classes, or they do not divide into the tasks.
    """
    n_classes = len(images.class_names)
    if suite.scenario != "split":
        return n_classes
    per_task = suite.classes_per_task
    if per_task is None:
        if n_classes % suite.n_tasks:
            possible = [count for count in range(2, n_classes // 2 + 1) if n_classes % count == 0]
            remedy = f"use --set n_tasks={min(possible, key=lambda n: abs(n - suite.n_tasks))}, or " if possible else ""
            raise SettingError(
                f"the {n_classes} classes of {images.source} do not divide into {suite.n_tasks} tasks; {remedy}"
                "say how many a task has with --set classes_per_task"
            )
        per_task = n_classes // suite.n_tasks
        if per_task < 2:
            raise SettingError(
                f"a task needs two classes or more, but {n_classes} classes of {images.source} in {suite.n_tasks} "
                f"tasks are one each; use at most --set n_tasks={n_classes // 2}"
            )
    if suite.n_tasks * per_task > n_classes:
        raise SettingError(
            f"{suite.n_tasks} tasks of {per_task} classes need {suite.n_tasks * per_task} classes, but "
            f"{images.source} has {n_classes}; use at most --set n_tasks={n_classes // per_task}"
        )
    return per_task


def _split_validation(labels: Tensor, share: float, seeds: RandomStreams) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images; the same images are held out in every task."""
    count = round(len(labels) * share)
    if not 0 < count < len(labels):
        raise SettingError(
            f"validation_share={share:g} of {len(labels)} images leaves none for training or for validation"
        )
    order = torch.randperm(len(labels), generator=seeds.generator("validation"))
    return order[count:].sort().values, order[:count].sort().values
