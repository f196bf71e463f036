"""clbench: a continual-learning benchmark whose numbers can be checked.

The engine is this package; the methods under test are `clbench.strategies`, what they are compared with is
`clbench.baselines`, and `clbench.reports` turns recorded runs into tables, figures, HTML and PDF.
"""

import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clbench.api import Runs, load, load_suite, run
    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm
    from clbench.suites.suite import Suite

__version__ = "0.1.0"

# Avalanche imports it for a method that clbench does not have; what it misses is no concern of the user.
warnings.filterwarnings("ignore", message="no QP solver found", category=UserWarning)

# In a checkout the three folders lie beside this one, in an installed wheel inside it. Looking there too
# lets `import clbench.strategies` work from a checkout that was never installed.
if not (Path(__file__).parent / "strategies").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

_LAZY = {
    "Ray": "clbench.execution.on_ray",
    "Slurm": "clbench.execution.on_slurm",
    "Runs": "clbench.recorded",
    "Suite": "clbench.suites.suite",
    "load": "clbench.api",
    "load_suite": "clbench.api",
    "run": "clbench.api",
}

__all__ = ["Ray", "Runs", "Slurm", "Suite", "__version__", "load", "load_suite", "run"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: torch and pandas take seconds.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'clbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
