"""Networks as a user writes them."""

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs, width=8):
        channels, height, side = image_shape
        first = nn.Linear(channels * height * side, width)
        super().__init__(nn.Flatten(), first, nn.ReLU(), nn.Linear(width, n_outputs))
"""
CONV = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs):
        super().__init__(nn.Conv2d(image_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
                         nn.Linear(4 * (image_shape[1] - 2) * (image_shape[2] - 2), n_outputs))
"""
