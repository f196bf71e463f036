"""What a run of CLNP's recorded that learned two of three tasks."""

import numpy as np

from clbench.records.format import FORMAT

RUN_ID = "0123456789abcdef"
CONFIG = {
    "format": FORMAT,
    "run_id": RUN_ID,
    "suite": "permuted-digits",
    "method": "clnp",
    "seed": 3,
    "modified": True,
    "suite_settings": {"n_tasks": 3},
}
ENVIRONMENT = "python: 3.11\nnaïve==1.0\n"
# Two of three tasks learned; the third was tried before it was learned.
MATRIX = np.array([[0.1, 1 / 3, 0.12], [0.9, 0.2, np.nan], [0.7, 0.95, 0.15], [np.nan, np.nan, np.nan]])
TASKS = [
    {
        "task": task,
        "train_seconds": 0.1 + task,
        "train_images_per_second": 1e5 / 3,
        "eval_seconds": 1e-4,
        "peak_memory_bytes": 2**31,
        "extra_state_bytes": 44 * task,
        "optimizer_state_bytes": 0,
    }
    for task in (1, 2)
]
CAPACITY = [
    {
        "task": task,
        "group": f"layer_{layer}",
        "unit": "neuron",
        "units": 16,
        "free": 8,
        "new": 5,
        "reused": 3,
        "used": 8,
        "threshold": 1 / 7,
        "margin_spent": 0.0,
        "weights_used": 1 / 3,
        "weights": 48,
    }
    for task in (1, 2)
    for layer in (1, 2)
]


def contents(root):
    """Every file below, hidden ones as well, with its bytes."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
