"""Whether a method does what every method must, said in sentences: behind `clbench check` and the contract test.

Each check trains the method anew for some seconds, on three small tasks made of the embedded digits.
"""

import io
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from clbench.data import load_images
from clbench.data.streams import make_stream
from clbench.errors import SettingError
from clbench.methods.method import Method, Workplace
from clbench.methods.table import find_method, reason_against, resolve_settings
from clbench.networks.heads import Head
from clbench.own.code import said_by
from clbench.runs.checkpoint import check_plain
from clbench.runs.network import sample_network
from clbench.runs.runner import accuracy
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

Verdict = Literal["holds", "fails", "does not apply"]
Precision = Literal["float32", "bfloat16"]
_TOY = {"batch_size": 32, "learning_rate": 0.003, "hidden_sizes": [64, 64]}
HEADS: Mapping[Head, str] = {
    "single": "one head for all tasks",
    "multi": "a head per task",
    "classes": "one head over all classes",
}
# How far above guessing a task must be right after it was learned: this share of the way to 1.
_LEARNS = 0.2


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        verdict: whether it holds.
        said: a sentence.
    """

    verdict: Verdict
    said: str


class Failure(Exception):
    """A check that does not hold; its text says why."""


class Toy:
    """A method on three small tasks of the embedded digits.

    Args:
        name: of the method.
        given: settings of it to change.

    Raises:
        SettingError: for a setting that it does not have, or a method that can run on none of the toy's suites.

    Example:
        Toy("ewc", {"strength": 10.0}).trained(1)
    """

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.name = name
        self.given = given
        self.images = load_images("digits")
        reasons = {head: self.refusal(head) for head in HEADS}
        fitting = [head for head, reason in reasons.items() if not reason]
        if not fitting:
            raise SettingError(f"{name} cannot be checked, because it refuses every suite: {reasons['single']}")
        self.head = fitting[0]

    def _suite(self, head: Head, epochs: int = 2) -> Any:
        suite = find_suite("permuted-digits")
        if head != "single":
            suite = suite.model_copy(update={"scenario": "split", "classes_per_task": 3, "head": head})
        return suite.with_overrides({**_TOY, "n_tasks": 3, "epochs": epochs}).complete()

    def refusal(self, head: Head) -> str:
        """Why the method cannot run with such a head; empty where it can."""
        suite = self._suite(head)
        settings = resolve_settings(suite, self.name, self.given)
        found = sample_network(suite, self.images)
        return reason_against(self.name, suite, settings, found.model, found.image)

    def method(
        self,
        seed: int = 0,
        head: Head | None = None,
        epochs: int = 2,
        precision: Precision = "float32",
        device: str = "cpu",
    ) -> Method:
        """The method, ready to train."""
        suite, seeds = self._suite(head or self.head, epochs), RandomStreams(seed)
        stream = make_stream(suite, self.images, seeds)
        settings = resolve_settings(suite, self.name, self.given)
        method = find_method(self.name)(settings, Workplace(suite, stream, seeds, torch.device(device), precision))
        method.prepare()
        return method

    def trained(self, n_tasks: int = 2, *, is_tested: bool = False, **how: Any) -> Method:
        """The method after so many tasks, tested after each or not."""
        method = self.method(**how)
        for task in method.workplace.stream.tasks[:n_tasks]:
            method.learn(task)
            for seen in method.workplace.stream.tasks[: task.index + 1] if is_tested else ():
                accuracy(method, seen)
        return method


def logits(method: Method) -> list[Tensor]:
    """What it answers for the test images of every task that it has answers for, [N, C] each."""
    found = []
    for task in method.workplace.stream.tasks:
        answering = method.network_for(task)
        if answering is not None:
            with torch.inference_mode(), answering as network:
                found.append(
                    network(task.test.batch(torch.arange(len(task.test)), device=method.workplace.device)[0]).clone()
                )
    return found


def _equal(first: Method, second: Method) -> bool:
    return all(map(torch.equal, logits(first), logits(second)))


def learns(toy: Toy) -> str:
    """It learns: right after each task its accuracy is well above that of guessing."""
    # A method may need more steps than most.
    for epochs in (8, 80):
        method, found = toy.method(epochs=epochs), []
        for task in method.workplace.stream.tasks:
            method.learn(task)
            found.append(accuracy(method, task))
        chance = 1 / method.workplace.stream.n_outputs
        said = f"right after each task it is right on {', '.join(f'{100 * share:.0f}' for share in found)} %, where "
        said += f"guessing is {100 * chance:.0f}"
        # A method may hold back until all tasks have come.
        if max(found) > chance + _LEARNS * (1 - chance):
            return f"it learns: {said}"
    raise Failure(f"it does not learn: {said}")


def same_seed_same_bits(toy: Toy) -> str:
    """The same seed gives the same bits, whatever was drawn before; another seed gives others."""
    first = toy.trained()
    torch.rand(7)
    again, other = toy.trained(), toy.trained(seed=1)
    if not _equal(first, again):
        raise Failure(
            "the same seed gives other bits: draw from torch, NumPy or Python's random while learning, "
            "or from self.workplace.seeds"
        )
    if _equal(first, other):
        raise Failure("another seed gives the same bits: nothing in it depends on the seed")
    return "the same seed gives the same bits, another seed others"


def testing_changes_nothing(toy: Toy) -> str:
    """Testing between tasks moves no bit of what is learned."""
    if not _equal(toy.trained(), toy.trained(is_tested=True)):
        raise Failure("testing between tasks changes what is learned: network_for must leave the network as it was")
    return "testing between tasks changes nothing"


def leaves_the_generator(toy: Toy) -> str:
    """Training leaves torch's global generator as it was."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    toy.trained(1)
    if not torch.equal(torch.rand(3), expected):
        raise Failure(
            "training moves torch's global generator: draw within learn, which super().learn seeds and restores"
        )
    return "training leaves the global random generator as it was"


def resumes(toy: Toy) -> str | None:
    """What it saves is enough to go on to the same bits, in tensors, numbers and words alone."""
    if not find_method(toy.name).resumes:
        return None
    # What a method carries may lie in the one output layer, or beside several.
    heads: list[Head] = [head for head in HEADS if head in (toy.head, "multi") and not toy.refusal(head)]
    for head in heads:
        whole = toy.trained(3, head=head)
        for n_tasks in (1, 2):
            before, file = toy.trained(n_tasks, head=head), io.BytesIO()
            check_plain(before.state_dict(), "state")
            torch.save(before.state_dict(), file)
            file.seek(0)
            continued = toy.method(head=head)
            continued.load_state_dict(torch.load(file, weights_only=True))
            for task in continued.workplace.stream.tasks[n_tasks:]:
                continued.learn(task)
            if not _equal(continued, whole):
                raise Failure(
                    f"a run killed after task {n_tasks} would end at other numbers: extra_state does not hold all that "
                    "it carries from task to task; complete it, or leave resumes out"
                )
    return "a killed run goes on to the same bits"


def declares_its_state(toy: Toy) -> str | None:
    """It says what it keeps from task to task."""
    found = toy.trained().extra_state_bytes()
    return None if found is None else f"it keeps {found:,} bytes from task to task beside the network, after two tasks"


def trains_other_heads(toy: Toy) -> str:
    """It trains a head per task and one over all classes, or refuses them with a reason."""
    said = []
    for head, words in HEADS.items():
        if reason := toy.refusal(head):
            said.append(f"it refuses {words}: {reason}")
            continue
        method = toy.trained(head=head)
        if not all(answer.isfinite().all() for answer in logits(method)):
            raise Failure(f"with {words} it answers with numbers that are not finite")
        said.append(f"it trains {words}")
    return "; ".join(said)


def trains_in_bfloat16(toy: Toy) -> str:
    """It trains under autocast."""
    if not all(answer.isfinite().all() for answer in logits(toy.trained(1, precision="bfloat16"))):
        raise Failure("in bfloat16 it answers with numbers that are not finite")
    return "it trains in bfloat16"


def trains_on_a_gpu(toy: Toy) -> str | None:
    """It trains where there is a GPU."""
    if not torch.cuda.is_available():
        return None
    toy.trained(device="cuda")
    return "it trains on a GPU"


CHECKS: Mapping[Callable[[Toy], str | None], str] = {
    learns: "",
    same_seed_same_bits: "",
    testing_changes_nothing: "",
    leaves_the_generator: "",
    resumes: "a killed run begins anew, because the class does not say resumes = True",
    declares_its_state: "it does not declare what it keeps from task to task; extra_state would",
    trains_other_heads: "",
    trains_in_bfloat16: "",
    trains_on_a_gpu: "there is no GPU here to try it on",
}
"""Every check, and what is said where it does not apply."""


def findings(name: str, given: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks a method, one finding after another.

    Args:
        name: of the method.
        given: settings of it to change.

    Raises:
        SettingError: for an unknown method or setting.

    Example:
        all(finding.verdict != "fails" for finding in findings("ewc", {}))
    """
    toy = Toy(name, given)
    for check, otherwise in CHECKS.items():
        try:
            said = check(toy)
        except Failure as failure:
            yield Finding("fails", str(failure))
        except Exception as error:
            tried = (check.__doc__ or "").strip().rstrip(".")
            yield Finding("fails", f"{said_by(error)}{_place_of(error)}, while trying this: {tried}")
        else:
            yield Finding("does not apply", otherwise) if said is None else Finding("holds", said)


def _place_of(error: BaseException) -> str:
    """The last line of no installed package that the error came through."""
    lines = [line for line in traceback.extract_tb(error.__traceback__) if "site-packages" not in line.filename]
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
