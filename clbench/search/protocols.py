"""Protocols that ask what to try next, given what came out so far, with the same budget for every method.

`first_k` lets Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) choose within the ranges that a method
names (`Method.searched`), and its rate. `chf` is the continual hyper-parameter framework of De Lange et al. 2019 (arXiv
1909.08383): the rate by plain fine-tuning, then the setting that keeps what is known, halved until enough is learned.

Departs from the latter: it is done once for the first tasks together, where theirs is done for each task in turn. One
setting is lowered. HAT's s_max stays at 400, where theirs starts from 800.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError, SettingError, not_installed
from clbench.methods.space import Among, Between, Range, Space
from clbench.methods.table import find_method
from clbench.search.trials import Plan, Trial

if TYPE_CHECKING:
    from optuna import Study

RATES = (1e-2, 5e-3, 1e-3, 5e-4, 1e-4)
"""What De Lange et al. try with plain fine-tuning."""


@dataclass(frozen=True)
class Found:
    """What came of a trial.

    Attributes:
        trial: which.
        accuracy: average validation accuracy in the end. None if it diverged.
        learning_accuracy: mean validation accuracy of each task right after it was learned. None if it diverged.
        images: trained on.
        learns_enough: of the protocol chf, whether it loses no more than it may on tasks that it learns.
    """

    trial: Trial
    accuracy: float | None
    learning_accuracy: float | None
    images: int
    learns_enough: bool = True


Train = Callable[[Sequence[Trial]], list[Found]]
"""Trains trials at once, logs them, and gives what came of each, in their order."""


@dataclass(frozen=True)
class Budget:
    """What each method may spend.

    Attributes:
        trials: how many.
        images: to train on, in all trials of a method. None for no such limit.
    """

    trials: int
    images: int | None = None

    def left(self, found: Sequence[Found]) -> int:
        """How many more trials may begin: as many as fit, were each as long as the longest so far."""
        trials = self.trials - len(found)
        if self.images is not None:
            # What one takes shows with the first.
            left = self.images - sum(each.images for each in found)
            trials = min(trials, left // max(each.images for each in found) if found else 1)
        return max(0, trials)


def first_k(plan: Plan, name: str, budget: Budget, train: Train, journal: Path, at_once: int = 1) -> list[Found]:
    """Searches a method's settings on the first tasks, and returns all trials.

    What was asked before is read from the journal, so that a search that was killed goes on. What to try next depends
    on the plan's seed and on what came out, on nothing else.

    Args:
        plan: suite, tasks, seed, images.
        name: of the method.
        budget: of the method.
        train: trains trials.
        journal: file that keeps what was asked and answered.
        at_once: trials to ask for at a time.

    Raises:
        SettingError: if the method has nothing to search, or Optuna is not installed.
        RecordError: if the journal cannot be used.
    """
    try:
        import optuna
    except ImportError:
        raise not_installed("the protocol first-k", "Optuna", "search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = plan.trial(name, {})
    space = space_of(name, own)
    study = _study(journal, name, own, space)
    ranges = {key: _as_optuna(each) for key, each in space.items()}
    known = [trial for trial in study.trials if trial.state.is_finished()]
    found = train([plan.trial(name, _rounded(trial.params)) for trial in known])
    if not study.trials:
        # The suite's own settings first: a search shall not end below them.
        values = {key: _one(value) for key, value in own.spec.settings.model_dump().items()}
        study.enqueue_trial({key: value for key, value in values.items() if _is_within(space, key, value)})
    # Asked by a command that was killed before it had an answer.
    asked = [(trial.number, trial.params) for trial in study.trials if trial.state.name == "RUNNING"]
    while (left := budget.left(found)) > 0:
        while len(asked) < min(at_once, left):
            number = len(known) + len(asked)
            study.sampler = optuna.samplers.TPESampler(seed=plan.seed + number, n_startup_trials=_BY_CHANCE)
            trial = study.ask(ranges)
            asked.append((trial.number, trial.params))
        answers = train([plan.trial(name, _rounded(params)) for _, params in asked])
        for (number, _), each in zip(asked, answers, strict=True):
            state = optuna.trial.TrialState.FAIL if each.accuracy is None else None
            known.append(study.tell(number, each.accuracy, state=state))
        found += answers
        asked = []
    return found


_BY_CHANCE = 8


def plain_fine_tuning(plan: Plan, train: Train) -> Found:
    """The trial of plain fine-tuning, at one of `RATES`, that learns most; of those that learn as much, forgets least.

    Raises:
        SettingError: if all of them diverge.
    """
    tried = train([plan.trial("naive", {"learning_rate": rate}) for rate in RATES])
    best = max(tried, key=lambda each: (each.learning_accuracy or 0.0, each.accuracy or 0.0))
    if best.learning_accuracy is None:
        raise SettingError("plain fine-tuning diverges at all of the rates " + ", ".join(map(str, RATES)))
    return best


DROP = 0.2
"""Share of the accuracy of plain fine-tuning that De Lange et al. let a method lose on tasks that it learns."""


def chf(plan: Plan, name: str, budget: Budget, train: Train, plain: Found, *, decay: float = 0.5) -> list[Found]:
    """Searches a method's stability as De Lange et al., and returns its trials.

    The last is the one to take, if it learns enough (`Found.learns_enough`). Else the budget was too small.

    Args:
        plan: suite, tasks, seed, images.
        name: of the method.
        budget: of the method.
        train: trains trials.
        plain: what all methods share, see `plain_fine_tuning`.
        decay: what the setting is multiplied by as long as it loses more.

    Raises:
        SettingError: if the method has no such setting.
    """
    check_searched("chf", plan, name)
    stability = find_method(name).stability
    assert stability is not None
    own, tuned = plan.trial(name, {}).spec.settings, plain.trial
    enough = (1 - DROP) * (plain.learning_accuracy or 0.0)
    # A rate says nothing about another optimiser.
    same = getattr(own, "optimizer", None) == getattr(tuned.spec.settings, "optimizer", None)
    rate = {"learning_rate": tuned.settings["learning_rate"]} if same else {}
    key, value = stability
    if isinstance(given := getattr(own, key), int | float):
        # What a suite has found to be needed is no place to end.
        value = max(value, given)
    found: list[Found] = []
    while budget.left(found):
        found += train([plan.trial(name, {**rate, key: value})])
        found[-1] = replace(found[-1], learns_enough=(found[-1].learning_accuracy or 0.0) >= enough)
        if found[-1].learns_enough:
            break
        value *= decay
    return found


def can_be_searched(protocol: str, name: str) -> bool:
    """Whether a method that nobody named has something that a protocol can search."""
    if protocol == "chf":
        return find_method(name).stability is not None
    return bool(find_method(name).searched)


def check_searched(protocol: str, plan: Plan, name: str) -> None:
    """Makes sure that a protocol can search a method.

    Raises:
        SettingError: if it names nothing for it.
    """
    if protocol == "first-k":
        space_of(name, plan.trial(name, {}))
    elif not can_be_searched(protocol, name):
        raise SettingError(
            f"{name} names no setting that keeps what is known (Method.stability), which the protocol chf lowers; give "
            "--protocol first-k"
        )


def space_of(name: str, own: Trial) -> Space:
    """What is searched of a method: what it names, and its rate within a factor of ten of its own.

    Raises:
        SettingError: if that is nothing, which holds for methods without a rate of their own.
    """
    rate = getattr(own.spec.settings, "learning_rate", None)
    settings = own.spec.settings
    space = {key: _holding(each, getattr(settings, key, None)) for key, each in find_method(name).searched.items()}
    if rate:
        space.setdefault("learning_rate", Between(rate / 10, min(10.0, rate * 10)))
    if not space:
        raise SettingError(f"{name} has no setting to search (Method.searched)")
    return space


def _holding(each: Range, value: Any) -> Range:
    """The range, widened to hold a value of the suite's own, so that a search may begin there."""
    if isinstance(each, Among):
        return each if _one(value) in each.values else Among((_one(value), *each.values))
    if not isinstance(each, Between) or isinstance(value, bool) or not isinstance(value, int | float):
        return each
    if each.log and value <= 0:
        return each
    return Between(min(each.low, value), max(each.high, value), each.log)


def _one(value: Any) -> Any:
    """A list as Optuna takes it: its only value, or a text, which `_rounded` makes the list again."""
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 else json.dumps(value)


def _rounded(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same with four digits, which a person can read and give again, and with lists for their texts."""
    return {key: _read(value) for key, value in params.items()}


def _read(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def _is_within(space: Space, key: str, value: Any) -> bool:
    match space.get(key):
        case Between(low, high):
            return isinstance(value, int | float) and low <= value <= high
        case Among(values):
            return value in values
        case _:
            return False


def _as_optuna(each: Between | Among) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(each, Among):
        return CategoricalDistribution(each.values)
    return FloatDistribution(each.low, each.high, log=each.log)


def _study(journal: Path, name: str, own: Trial, space: Space) -> "Study":
    """The study of a method in the journal. With other settings, data or ranges it is another study."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    asked = f"{own.spec.run_id} {sorted((key, repr(each)) for key, each in space.items())}"
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(journal))
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
        return optuna.create_study(
            study_name=f"{name} {hashlib.sha256(asked.encode()).hexdigest()[:16]}",
            storage=storage,
            direction="maximize",
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"the journal {journal} cannot be used ({error}); move it away, or give another --log"
        ) from None
