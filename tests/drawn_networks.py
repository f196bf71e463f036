"""Networks as a test draws them: blocks of filters, layers of neurons behind them.

Imports nothing of the tests, for a run trains `Net` by the path of this file.
"""

import json

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "leaky": F.leaky_relu, "sigmoid": torch.sigmoid}


class Drawn(nn.Module):
    """Blocks of filters, layers of neurons behind them: 8 x 8 images -> features.

    Args:
        plan: as `plans` draws it.
    """

    def __init__(self, plan):
        super().__init__()
        self.plan, self.act = plan, ACTIVATIONS[plan["act"]]
        self.blocks, self.layers = nn.ModuleDict(), nn.ModuleDict()
        width, bias = 1, plan["bias"]
        self.kinds: list[str] = []
        if plan["norm of inputs"]:
            self.blocks["inputs"] = nn.BatchNorm2d(1)
        for number, (kind, filters, kernel, stride) in enumerate(plan["blocks"]):
            before = width
            if before == 1 and kind in ("residual", "depthwise"):
                kind = "plain"
            self.kinds.append(kind)
            same = kind in ("residual", "joined")
            padding = kernel // 2 if same else 1
            kernel, stride = (kernel // 2 * 2 + 1, 1) if same else (kernel, stride)
            if kind == "depthwise":
                multiplier = filters % 2 + 1
                made = nn.Conv2d(before, before * multiplier, 3, padding=1, groups=before, bias=bias)
                width = before * multiplier
            elif kind == "residual":
                made, width = nn.Conv2d(before, before, kernel, padding=padding, bias=bias), before
            else:
                made = nn.Conv2d(before, filters, kernel, stride, padding, bias=bias)
                width = before + filters if kind == "joined" else filters
            self.blocks[f"{kind}_{number}"] = made
            if plan["norm"]:
                self.blocks[f"norm_{number}"] = nn.BatchNorm2d(made.out_channels, affine=plan["affine"])
        flat = self.images(torch.zeros(2, 1, 8, 8)).shape[1]
        for number, neurons in enumerate(plan["layers"]):
            self.layers[f"layer_{number}"] = nn.Linear(flat, neurons, bias=bias)
            if plan["norm"]:
                self.layers[f"norm_{number}"] = nn.BatchNorm1d(neurons, affine=plan["affine"])
            flat = neurons
        self.n_features = flat

    def images(self, x):
        plan = self.plan
        if plan["norm of inputs"]:
            x = self.blocks["inputs"](x)
        for number, kind in enumerate(self.kinds):
            y = self.blocks[f"{kind}_{number}"](x)
            if plan["norm"]:
                y = self.blocks[f"norm_{number}"](y)
            if kind == "residual":
                y = y + x
            y = self.act(y)
            x = torch.cat([x, y], 1) if kind == "joined" else y
            if plan["dropout"]:
                x = F.dropout2d(x, 0.2, self.training)
        if plan["blocks"] and plan["pool"] == "mean":
            return x.mean((2, 3))
        if plan["blocks"] and plan["pool"] == "max":
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x.flatten(1)

    def forward(self, x):
        x = self.images(x)
        for number in range(len(self.plan["layers"])):
            x = self.layers[f"layer_{number}"](x)
            if self.plan["norm"]:
                x = self.layers[f"norm_{number}"](x)
            x = self.act(x)
            if self.plan["dropout"]:
                x = F.dropout(x, 0.2, self.training)
        return x


class Net(nn.Sequential):
    """The same with one output layer, for a suite.

    Args:
        image_shape: (1, 8, 8).
        n_outputs: of the output layer.
        plan: JSON of a plan.
    """

    def __init__(self, image_shape, n_outputs, plan=""):
        trunk = Drawn(json.loads(plan))
        super().__init__(trunk, nn.Linear(trunk.n_features, n_outputs))
