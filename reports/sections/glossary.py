"""What the report's numbers mean, in words, and who defined them."""

from clbench.reports.model import Cell, Column, Table

_LOPEZ_PAZ = "Lopez-Paz and Ranzato 2017, arXiv 1706.08840"

_TERMS = (
    (
        "Accuracy matrix",
        "Its entry in row i and column j is the accuracy on the test images of task j after i tasks were learned.",
        _LOPEZ_PAZ,
    ),
    (
        "Average accuracy",
        "Mean of the last row: the accuracy on each task after the last one was learned, averaged over tasks.",
        _LOPEZ_PAZ,
    ),
    (
        "Forgetting",
        "For every task but the last: its best accuracy at any earlier point of the stream, less its accuracy "
        "after the last task; averaged over these tasks. Positive means lost. A task may score better by chance "
        "before it is learned; what was lost since then alone is backward transfer.",
        "Chaudhry et al. 2018, arXiv 1801.10112",
    ),
    (
        "Backward transfer",
        "For every task but the last: its accuracy after the last task, less its accuracy right after it was "
        "learned; averaged over these tasks. Negative means lost.",
        _LOPEZ_PAZ,
    ),
    (
        "Forward transfer",
        "For every task but the first: its accuracy just before it is learned, less that of the untrained "
        "network; averaged over these tasks. n/a where a task cannot be tried before it is learned.",
        _LOPEZ_PAZ,
    ),
    (
        "Learning accuracy",
        "Accuracy on each task right after it was learned, averaged over tasks: the matrix's diagonal.",
        "Riemer et al. 2019, arXiv 1810.11910",
    ),
    (
        "Average incremental accuracy",
        "Average accuracy over the tasks learned so far, averaged over the numbers of tasks learned.",
        "Rebuffi et al. 2017, arXiv 1611.07725",
    ),
    (
        "95 % confidence interval",
        "Mean over seeds ± Student's t quantile (n − 1 degrees of freedom) times the standard deviation over "
        "seeds, divided by the square root of n. Not given below 3 seeds.",
        "Student's t",
    ),
    (
        "BCa bootstrap",
        "Interval of the mean from 9,999 resamples of the seeds by a fixed generator, corrected for bias and skewness.",
        "Efron 1987, Journal of the American Statistical Association 82",
    ),
    (
        "Pareto front",
        "The methods that none other of their kind, tasks, network and training matches in accuracy for less time, for "
        "less extra state, or for a smaller CAP.",
        "computed by clbench",
    ),
    (
        "Task known at test",
        "Yes: the method is told which task a test image belongs to, and chooses by it what stands there: a head, "
        "units, weights, contexts or a network. No: it gets the image alone. The first is the easier problem, and the "
        "two should not be ranked together.",
        "van de Ven and Tolias 2019, arXiv 1904.07734",
    ),
    (
        "Extra state",
        "What a method keeps beside the network's own weights after the last task: importances, masks, "
        "scores, contexts, stored copies, and its optimiser's state where a task goes on with it.",
        "measured by clbench",
    ),
    (
        "Free, new, reused",
        "Neurons of a layer (or filters, or weights) that no task has claimed; that this task claimed; that "
        "earlier tasks claimed and that this one uses. CLNP counts a neuron as reused if its mean activity on the "
        "task exceeds the threshold, and a new neuron or the output layer reads it. The network of a task of CLNP has "
        "the other neurons of earlier tasks as well.",
        "Golkar, Kagan, Cho 2019, arXiv 1903.04476",
    ),
    (
        "CAP",
        "Share of the hidden weights that tasks use, with what says which are theirs. It may exceed 100 %.",
        "Kang et al. 2022 (WSN, ICML)",
    ),
    (
        "Images trained on",
        "Images in training steps over all tasks, each as often as it came, with those replayed from a memory.",
        "counted by clbench",
    ),
    (
        "Margin spent",
        "Accuracy on the validation images of the current task that pruning gave up, in percentage points.",
        "Golkar, Kagan, Cho 2019, arXiv 1903.04476",
    ),
)


def glossary() -> Table:
    """The terms, their meaning and their source."""
    return Table(
        "glossary",
        "Metrics in words, and where they come from",
        (Column("Term", "text", 1.2), Column("Meaning", "text", 4), Column("Source", "text", 1.8)),
        tuple((Cell(term), Cell(meaning), Cell(source)) for term, meaning, source in _TERMS),
    )
