r"""CLNP: Continual Learning via Neural Pruning.

Source: Golkar, Kagan and Cho 2019, "Continual learning via neural pruning" (arXiv 1903.04476).

After each task every hidden unit, a neuron or a filter, is *active* (claimed by a task so far) or *free*. All inputs of
the network are active. For every task (`plugin.py`):

1. Train with cross-entropy + alpha |W|_1 whatever leads to free units, and nothing else (`dense.py`, `reduced.py`).
2. Measure each unit's activity over the task's training data: the mean size of what it gives, for a filter over
   positions too (`measuring.py`).
3. Prune with graceful forgetting: a free unit of activity <= theta is pruned. Theta is as large as it can be while the
   validation accuracy stays within the margin of the unpruned network's (`pruning.py`).
4. Cut: weights from pruned to newly claimed units become 0 (interference), and so do those to the task's outputs.
5. Fine-tune what was claimed, without L1 (the paper's improved variant). Then freeze it (`claims.py`).

What leads to an active unit is constant from then on, and comes from active units alone. Which units a task reads
is its mask. So what a task computed depends on constants only, and *forgetting after the task's own pruning is exactly
zero*, while later tasks may read what earlier ones learned. The task must be known at test time.

Units whose layers are added to one another (residual connections) are claimed together. With batch norm a claimed
channel's affine parameters and statistics freeze with it, or every task has its own.

Departs from the paper, where it is silent: the L1 norm takes in the output layer's weights and no biases; thresholds
are found group by group in order, by bisection; what an early group does not spend of the margin passes on to the
later; fine-tuning runs at a share of the learning rate and is undone if accuracy on the same validation images falls;
each task has a new optimiser, and output weights of its own on a network with one output layer, the paper's multi-head
form.

Options beyond the paper, off by default: a budget for each task, ranking by contribution, a norm of the activities, and
inputs dropped while fine-tuning. What each is worth is in docs/clnp.md.
"""
