"""What a run keeps of its networks, where it was asked to: for each task one in plain PyTorch, with example answers.

A file for each task, `networks/task_01.safetensors` in the run's folder: the tensors of the network, some test images
and what it answers to them, and as its description the text of the module. status.json has the SHA-256 of each.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from clbench.data.streams import Permutation, Rotation
from clbench.errors import RecordError
from clbench.export.plain import Plain, plain
from clbench.records.files import content_of
from clbench.records.folder import RunFolder

if TYPE_CHECKING:
    from clbench.data.streams import Task
    from clbench.methods.method import Method

FOLDER = "networks"
FILE = "network.safetensors"
_EXAMPLES = 32


@dataclass(frozen=True)
class Kept:
    """The network of a task, as it was kept.

    Attributes:
        network: in plain PyTorch.
        whole: the text of a module with all units, whose weights are not kept.
        images, logits: examples, [N, C, H, W] as the network takes them, and [N, K].
        about: suite, method, seed and task, and what becomes of images before the network gets them.
    """

    network: Plain
    whole: str
    images: Tensor
    logits: Tensor
    about: Mapping[str, Any]


def keep_networks(method: "Method", folder: RunFolder, config: Mapping[str, Any], weights: str) -> dict[str, str]:
    """Writes the network of every learned task into a run's folder.

    Args:
        method: trained.
        folder: of the run.
        config: its config.json.
        weights: digest of what was learned.

    Returns:
        The SHA-256 of each file, by its name in the run's folder.

    Raises:
        MethodError: if the method's networks cannot be written down.
    """
    learned = method.workplace.stream.tasks[: method.tasks_learned]
    # One that cannot be written down shows before any is.
    contents = {
        f"{FOLDER}/task_{task.index + 1:02d}.safetensors": _content(method, task, config, weights) for task in learned
    }
    (folder.path / FOLDER).mkdir(exist_ok=True)
    try:
        for name, content in contents.items():
            folder.write_bytes(name, content)
    except BaseException:
        # Files without a digest would stand for nothing.
        shutil.rmtree(folder.path / FOLDER, ignore_errors=True)
        raise
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _content(method: "Method", task: "Task", config: Mapping[str, Any], weights: str) -> bytes:
    # Spread over all, because data sets may lie by class.
    spread = torch.linspace(0, len(task.test) - 1, min(_EXAMPLES, len(task.test))).long()
    images, _ = task.test.batch(spread, device=method.workplace.device)
    network = method.network_alone(task).eval()
    title = f"Task {task.index + 1} of {config['suite']}, learned by {config['method']} with seed {config['seed']}."
    written = plain(network, task.index, images[:1], title=title, file=FILE)
    whole = plain(_whole(method).eval(), task.index, images[:1], title=title, file=FILE)
    answering = method.masked_for(task)
    assert answering is not None
    # TF32, which convolutions on a GPU have, is coarser than what is asked of the logits.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, torch.inference_mode(), answering as answers:
        logits = answers(images).cpu()
    images = images.cpu()
    with torch.inference_mode():
        check_answers(written.build()(images), logits, "the network taken out")
    about = {key: config[key] for key in ("suite", "method", "seed", "run_id")}
    about |= {"task": task.index + 1, "task_name": task.name, "weights_sha256": weights}
    about |= {"image_shape": list(images.shape[1:]), "pixels": _pixels(task, config["suite_settings"])}
    # In one entry: safetensors writes several in an order of chance, and the file's digest would be another each time.
    description = {"kept": json.dumps({"source": written.source, "whole": whole.source, "about": about})}
    tensors = {f"network.{name}": tensor for name, tensor in written.tensors.items()}
    tensors |= {"example.images": images, "example.logits": logits}
    return save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, description)


# Of the largest logit: what another order of sums may change in float32.
_ROUNDING = 1e-4


def check_answers(found: Tensor, expected: Tensor, what: str) -> float:
    """How far logits are apart, as a share of the largest.

    Raises:
        RecordError: if that is more than rounding does.
    """
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= _ROUNDING:
        raise RecordError(
            f"{what} answers otherwise than the run did: logits differ by {difference:.2g} of the largest, more than "
            "rounding does"
        )
    return difference


def _whole(method: "Method") -> nn.Module:
    """The network with all units, to be compared with; without what masks or powers make of its weights."""
    if not any(map(is_parametrized, method.model.modules())):
        return method.model
    stream = method.workplace.stream
    network = method.workplace.suite.build_network(stream.image_shape, stream.n_outputs, seed=0)
    return network.to(method.workplace.device)


def _pixels(task: "Task", suite: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of an image of bytes before the network gets it, in order."""
    change, normalisation = task.test.change, task.test.normalisation
    side = suite.get("image_size")
    steps: dict[str, Any] = {"scaled_to": [side, side], "scaled_by": "bilinear, antialiased"} if side else {}
    steps["divided_by"] = 255
    if isinstance(change, Permutation):
        steps["permuted_by"] = change.order.tolist()
    elif isinstance(change, Rotation):
        steps["turned_by_degrees"] = change.degrees
    if normalisation is not None:
        steps |= {"mean": list(normalisation.mean), "std": list(normalisation.std)}
    return steps


def read_kept(folder: Path, task: int) -> Kept:
    """The network of a task, counted from 1, out of a run's folder.

    Raises:
        RecordError: if the run kept none, has not learned the task, or the file was changed.
    """
    digests = RunFolder(folder.parent, folder.name).networks
    if not digests:
        raise RecordError(
            f"the run {folder.name} kept no networks; train it with --keep-weights (and --rerun, if it is recorded)"
        )
    name = f"{FOLDER}/task_{task:02d}.safetensors"
    if name not in digests:
        raise RecordError(f"the run {folder.name} has learned the tasks 1 to {len(digests)}, but not task {task}")
    content = content_of(folder, name)
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise RecordError(f"{folder / name} is not what the run kept: its SHA-256 is another than status.json has")
    try:
        with safe_open(folder / name, framework="pt") as file:
            said = _description(file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return Kept(
            Plain(
                said["source"],
                {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")},
            ),
            said["whole"],
            tensors["example.images"],
            tensors["example.logits"],
            said["about"],
        )
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RecordError(f"{folder / name} is not a network that clbench kept ({error})") from None


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file says beside its tensors: `source`, `whole` and `about`."""
    if "kept" in metadata:
        return dict(json.loads(metadata["kept"]))
    # Earlier files have an entry for each.
    return {"source": metadata["source"], "whole": metadata["whole"], "about": json.loads(metadata["about"])}
