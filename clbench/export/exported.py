"""`clbench export`: the network of a task beside the whole one, checked, measured and written."""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from clbench.errors import RecordError, first_line, not_installed
from clbench.export.kept import FILE, Kept, check_answers, read_kept
from clbench.export.plain import built

BATCHES = (1, 256)
# A machine is not as fast in every moment: so many measurements in turns, of so many seconds each.
_ROUNDS, _SECONDS = 5, 0.1
_BEGUN = ".export-"
_FILES = ("network.py", FILE, "example.safetensors", "network.onnx", "export.json")


@dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: how many.
        megabytes: of its tensors.
        multiply_adds: for one image, of matrix products and convolutions.
        milliseconds: by batch size, on one thread of the processor, the median.
    """

    parameters: int
    megabytes: float
    multiply_adds: int
    milliseconds: Mapping[int, float]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        about: what the network is, as its run kept it.
        difference: the largest between its logits and those of the masked network, of the largest logit.
        onnx_difference: the same in ONNX Runtime; None without `onnx`.
        own, whole: what it costs, and what the whole network costs.
        paths: the files.
        is_constant: whether every example gets the same logits, as from a network without units.
    """

    about: Mapping[str, Any]
    difference: float
    onnx_difference: float | None
    own: Cost
    whole: Cost
    paths: tuple[Path, ...]
    is_constant: bool


def export(run: Path, task: int, out: Path, *, onnx: bool = False) -> Exported:
    """Takes the network of a task out of a run.

    Writes `network.py`, a module that needs torch alone, `network.safetensors`, its tensors, `example.safetensors`,
    images and logits, `export.json`, what is said here, and with `onnx` `network.onnx`.

    Args:
        run: the folder of a run that kept its networks.
        task: its number, from 1.
        out: the folder to write into; made if need be. An earlier export in it is replaced.
        onnx: whether to write ONNX as well, and to check it in ONNX Runtime.

    Raises:
        RecordError: if the run has no such network, its answers are others, or `out` cannot be written, or holds
            anything else.
        SettingError: if packages for ONNX are not installed.

    Example:
        export(Path("clbench-runs/0123456789abcdef"), 3, Path("task-3"))
    """
    if onnx:
        _check_onnx()
    kept = read_kept(run, task)
    network = kept.network.build()
    difference = check_answers(_answers(network, kept.images), kept.logits, "the network taken out")
    try:
        _check_room(out)
        # An earlier export stays until this one is whole.
        with tempfile.TemporaryDirectory(prefix=_BEGUN, dir=out) as place:
            found = _written(kept, network, difference, Path(place), onnx=onnx)
            for name in _FILES:
                (out / name).unlink(missing_ok=True)
            # export.json, by which the folder is known as an export's, goes last and comes first.
            for path in reversed(found.paths):
                path.replace(out / path.name)
    except OSError as error:
        raise RecordError(f"the folder {out} cannot be written ({error.strerror}); give another with --out") from None
    return replace(found, paths=tuple(out / path.name for path in found.paths))


def _check_room(out: Path) -> None:
    """Makes the folder, or makes sure that it holds nothing but an earlier export.

    Raises:
        RecordError: if something else lies there.
        OSError: if it cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in out.iterdir())
    ours = (*_FILES, "__pycache__") if "export.json" in names else ("__pycache__",)
    # One that was interrupted leaves its own folder there.
    if others := [name for name in names if name not in ours and not name.startswith(_BEGUN)]:
        raise RecordError(f"the folder {out} holds other files than an export's ({others[0]}); give another with --out")


def _written(kept: Kept, network: nn.Module, difference: float, place: Path, *, onnx: bool) -> Exported:
    """Everything, in a folder that is empty."""
    (place / "network.py").write_text(kept.network.source, encoding="utf-8")
    # `save_file` would let nobody else read them.
    (place / FILE).write_bytes(save(dict(kept.network.tensors)))
    (place / "example.safetensors").write_bytes(save({"images": kept.images, "logits": kept.logits}))
    in_runtime = _to_onnx(network, kept, place / "network.onnx") if onnx else None
    own, whole = _costs(network, built(kept.whole), kept.images[:1])
    is_constant = bool((kept.logits == kept.logits[0]).all())
    paths = tuple(place / name for name in _FILES if onnx or name != "network.onnx")
    found = Exported(kept.about, difference, in_runtime, own, whole, paths, is_constant)
    (place / "export.json").write_text(json.dumps(_said(found), indent=2) + "\n", encoding="utf-8")
    return found


def _said(found: Exported) -> dict[str, Any]:
    costs = {"network": found.own, "whole_network": found.whole}
    return {
        **found.about,
        "largest_difference_of_logits": found.difference,
        **({} if found.onnx_difference is None else {"largest_difference_in_onnx_runtime": found.onnx_difference}),
        **{
            name: {
                "parameters": cost.parameters,
                "megabytes": round(cost.megabytes, 4),
                "multiply_adds": cost.multiply_adds,
                "milliseconds_by_batch": {str(batch): round(each, 4) for batch, each in cost.milliseconds.items()},
            }
            for name, cost in costs.items()
        },
    }


def _answers(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(images)
    return logits


def _costs(network: nn.Module, whole: nn.Module, image: Tensor) -> tuple[Cost, Cost]:
    """Of both, their times measured in turns, so that a busy machine is busy for either."""
    times = defaultdict[tuple[int, int], list[float]](list)
    for batch in BATCHES:
        images = image.expand(batch, -1, -1, -1).contiguous()
        for _ in range(_ROUNDS):
            for number, each in enumerate((network, whole)):
                times[number, batch].append(_milliseconds(partial(_answers, each, images)))
    return tuple(  # type: ignore[return-value]
        Cost(
            sum(parameter.numel() for parameter in each.parameters()),
            sum(tensor.nbytes for tensor in each.state_dict().values()) / 1e6,
            _multiply_adds(each, image),
            {batch: statistics.median(times[number, batch]) for batch in BATCHES},
        )
        for number, each in enumerate((network, whole))
    )


def _milliseconds(action: Callable[[], object]) -> float:
    timer = Timer("action()", globals={"action": action}, num_threads=1)
    return 1000 * float(timer.blocked_autorange(min_run_time=_SECONDS).median)


def _multiply_adds(network: nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return int(counter.get_total_flops()) // 2


def _check_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise not_installed("--onnx", f"the package {error.name}", "onnx") from None


def _to_onnx(network: nn.Module, kept: Kept, path: Path) -> float:
    """Writes ONNX with any number of images, and says how far its logits are from the masked network's."""
    import onnxruntime

    batch = torch.export.Dim("batch")
    try:
        torch.onnx.export(
            network,
            (kept.images[:2],),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"images": kept.images.numpy()})
    # Of every kind, for what ONNX does not know.
    except Exception as error:
        raise RecordError(f"the network cannot be written as ONNX ({first_line(error)}); leave out --onnx") from None
    return check_answers(torch.from_numpy(logits), kept.logits, "ONNX Runtime")
