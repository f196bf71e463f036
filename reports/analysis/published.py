"""Published results and goals of a suite.

Ours have them in their files. A user's has them in its file, or in its newest run where the file is not at hand.
"""

import json
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from clbench.errors import RecordError
from clbench.records.reading import RecordedRun
from clbench.suites.files import SUITES
from clbench.suites.published import Goal, PublishedResult
from clbench.suites.suite import Suite

_Model = TypeVar("_Model", bound=BaseModel)


def published_results(
    suite: str, runs: Sequence[RecordedRun] = (), stated: Suite | None = None
) -> Sequence[PublishedResult]:
    """The published results for a suite, in the file's order; empty where none are known.

    Args:
        suite: its name.
        runs: recorded ones, of which the suite's newest tells where clbench has no such suite.
        stated: the suite as its file has it now, where that is at hand.

    Raises:
        RecordError: if that run's record of them cannot be read.
    """
    stated = stated or SUITES.get(suite)
    return stated.published if stated else _recorded("published", PublishedResult, suite, runs)


def goals(suite: str, runs: Sequence[RecordedRun] = (), stated: Suite | None = None) -> Sequence[Goal]:
    """The goals of a suite, in the file's order. Arguments and errors are those of `published_results`."""
    stated = stated or SUITES.get(suite)
    return stated.goals if stated else _recorded("goals", Goal, suite, runs)


def _recorded(key: str, model: type[_Model], suite: str, runs: Sequence[RecordedRun]) -> Sequence[_Model]:
    own = [run for run in runs if run.suite == suite]
    if not own:
        return ()
    newest = max(own, key=lambda run: (run.started, run.ended, run.run_id))
    try:
        # As JSON, from which alone a strict model takes text for a decimal and a list for a tuple.
        return tuple(model.model_validate_json(json.dumps(entry)) for entry in newest.config.get(key) or ())
    except (ValidationError, TypeError):
        raise RecordError(
            f"config.json of the run {newest.run_id} has {key} that are none; run the suite again, or set the run aside"
        ) from None
