"""What there is to see while a method learns."""


def learn_noting(method, task, what, seen):
    """Learns a task; `seen` gets what there is to see after each step."""

    class Looking:
        def after_training_iteration(self, strategy, **kwargs):
            seen.append(what(strategy))

    method.strategy.plugins.append(Looking())
    method.learn(task)
