"""What grids of a search hold that take seconds, and what a log of one says."""

import csv

SUITE = "permuted-digits"
HEAD = f'suite = "{SUITE}"\nn_tasks = 2\nseed = 1000\n'
# A trial of each method: short, since a trial cannot make the network smaller.
TRIALS = {"naive": [{"epochs": 1}], "ewc": [{"epochs": 1, "strength": 10.0, "fisher_images": 64}]}
# Weight decay 1 at rate 10 multiplies every weight by -9 in each step.
DIVERGING = {"epochs": 1, "optimizer": "sgd", "learning_rate": 10, "learning_rate_schedule": "constant"}
DIVERGING |= {"weight_decay": 1}


def logged(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
