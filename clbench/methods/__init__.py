"""Methods: what one is, and the table of all."""

from clbench.methods.method import Answers, Method, Phase, Workplace, answering
from clbench.methods.settings import AlwaysNew, MethodSettings, TrainingSettings
from clbench.methods.space import Among, Between
from clbench.methods.table import METHODS, find_method, method_names, resolve_settings

__all__ = [
    "METHODS",
    "AlwaysNew",
    "Among",
    "Answers",
    "Between",
    "Method",
    "MethodSettings",
    "Phase",
    "TrainingSettings",
    "Workplace",
    "answering",
    "find_method",
    "method_names",
    "resolve_settings",
]
