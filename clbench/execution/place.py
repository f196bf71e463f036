"""Where runs train: the device, and the threads of the CPU."""

from typing import TYPE_CHECKING

from clbench.errors import SettingError

if TYPE_CHECKING:
    import torch

    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm


def chosen_device(given: str) -> "torch.device":
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        SettingError: if it is not there.
    """
    import torch

    if given == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
    except RuntimeError:
        raise SettingError(f"unknown device '{given}': expected cpu, cuda, cuda:N or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"the device '{given}' is not supported: expected cpu, cuda, cuda:N or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(f"the device '{given}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def device_for(given: str, executor: "Slurm | Ray | None") -> "torch.device":
    """The device that runs train on, which another machine may have and this one lack.

    Args:
        given: its name; with an executor, `auto` is a GPU where one is asked for.
        executor: where runs are trained; None for this machine.

    Raises:
        SettingError: if it is not there, or the executor gives no run a GPU.
    """
    import torch

    if executor is None:
        return chosen_device(given)
    has_gpu = executor.gpus is not None
    kind = ("cuda" if has_gpu else "cpu") if given == "auto" else given
    if kind not in ("cpu", "cuda"):
        raise SettingError(f"the device '{given}' is another machine's to choose; expected cpu, cuda or auto")
    if (kind == "cuda") != has_gpu:
        what = executor.asks_for_gpus
        raise SettingError(
            f"the device cuda needs a GPU for each worker; ask for one with {what}"
            if kind == "cuda"
            else f"the device cpu leaves the GPUs idle that are asked for; leave out {what}"
        )
    return torch.device(kind)


def set_threads(
    threads: int | None,
    at_once: int,
    device: "torch.device",
    options: tuple[str, str],
    executor: "Slurm | Ray | None" = None,
) -> None:
    """Sets torch's number of threads, if it is given.

    Args:
        threads: of every run.
        at_once: runs that train at a time.
        device: that they train on.
        options: what the user calls `at_once` and `threads`, such as `--jobs` and `--threads`.
        executor: where they train; None for this machine.

    Raises:
        SettingError: if it is not given where it must be.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    elif executor is not None:
        raise SettingError(
            f"on a cluster every run needs {options[1].rstrip('= ')}, its cores, such as {options[1]}4: what is "
            "computed on a CPU depends on them to the last bit, so they are yours to say"
        )
    elif at_once > 1 and device.type == "cpu":
        many, wanted = options
        raise SettingError(
            f"{many}{at_once} on a CPU needs {wanted.rstrip('= ')}, the threads of each run, such as {wanted}"
            f"{max(1, torch.get_num_threads() // at_once)} here: what is computed depends on them to the last bit, so "
            "they are yours to say"
        )
