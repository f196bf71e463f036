"""Fine-tuning on one task after another: what forgetting looks like when nothing is done about it.

Source: standard; the lower reference of every comparison.
Departs from it: in nothing; the optimiser's state is new for every task, `reset_optimizer=false` keeps it.
"""

from clbench.methods.method import Method


class Naive(Method):
    """The base method as it is."""

    resumes = True
