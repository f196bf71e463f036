"""The checkpoint of a run: everything that is needed to go on after the last task learned.

One file, replaced as a whole: the new one is written beside it, synced and renamed, so that one of them is there
whatever happens. It starts with a line that names the format and the SHA-256 of the rest, which is checked before
anything is read, and reading executes nothing (`weights_only`). Random streams need no place in it: each purpose has
its own, and every task starts its own from the run's seed (`seeding.py`).
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clbench.errors import RecordError
from clbench.records.files import write_whole

FORMAT = "clbench checkpoint 1"
# What state_dict() of a network, an optimiser or a method is made of.
_PLAIN = (torch.Tensor, bool, int, float, str, type(None))


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint: the old one stays until the new one is complete and on disk.

    Args:
        path: the file.
        state: dicts, lists, tensors, numbers and strings.

    Raises:
        RecordError: if the file cannot be written, or the state holds anything else.
    """
    check_plain(state, "state")
    payload = io.BytesIO()
    torch.save(dict(state), payload)
    content = payload.getbuffer()
    head = f"{FORMAT} {hashlib.sha256(content).hexdigest()}\n".encode()
    try:
        write_whole(path, head, content)
    except OSError as error:
        raise RecordError(f"the checkpoint {path} cannot be written ({error.strerror})") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint back, all tensors on the CPU.

    Raises:
        RecordError: if the file cannot be read, is of another format, or was changed since it was written.
    """
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise RecordError(f"the checkpoint {path} cannot be read ({error.strerror})") from None
    form, _, digest = head.decode("latin-1").rpartition(" ")
    if form != FORMAT:
        raise RecordError(f"the checkpoint {path} does not begin with '{FORMAT}'")
    if hashlib.sha256(content).hexdigest() != digest:
        raise RecordError(f"the checkpoint {path} is damaged: its SHA-256 is not the one that it was written with")
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # The digest holds, so this is not damage: somebody wrote something else than tensors and numbers into it.
        reason = str(error).splitlines()[0][:200]
        raise RecordError(f"the checkpoint {path} is not one that clbench wrote ({reason})") from None
    if not isinstance(loaded, dict):
        raise RecordError(f"the checkpoint {path} is not one that clbench wrote (it holds a {type(loaded).__name__})")
    return loaded


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a network's weights: names, shapes, types and every bit, so that two runs can be compared by it."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_plain(value: Any, where: str) -> None:
    """Makes sure that a state holds what a checkpoint can.

    Raises:
        RecordError: for anything but dicts, lists, tensors, numbers and strings.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, where)
    elif not isinstance(value, _PLAIN):
        raise RecordError(f"a checkpoint holds tensors, numbers and strings only, but {where} is a {type(value)}")
