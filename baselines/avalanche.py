"""Avalanche's own EWC and SI plugins, their code untouched, so that a comparison can show what they give.

Source: avalanche-lib 0.6, `EWCPlugin` and `SynapticIntelligencePlugin`; the strengths are the ones of Avalanche's
continual-learning-baselines, which reports 0.83 for both on permuted MNIST and calls them not reproduced.
Departs from it: optimiser, rate and network are the suite's, as for every method, and on permuted MNIST the strength of
EWC is from a search like the other methods'. What differs from the papers is theirs: EWC squares the
gradient of the batch mean for the true labels, so its importances are smaller by orders of magnitude and its strength
must be larger by as much (1e7 where `ewc` has 3000), and keeps a copy of weights and importances per task; SI takes
the gradient of the total loss, caps importances at 0.001 and lets them turn negative. On a CPU the SI plugin protects
nothing at all (see `AvalancheSI.learn`), and the run says so.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin, SynapticIntelligencePlugin
from avalanche.training.utils import ParamData
from pydantic import Field
from torch import Tensor

from clbench.data.streams import Task
from clbench.errors import MethodWarning
from clbench.methods.method import Method
from clbench.methods.settings import MethodSettings
from clbench.suites.suite import Suite


class AvalancheEWCSettings(MethodSettings):
    """Hyper-parameters of `avalanche-ewc`.

    Attributes:
        strength: `ewc_lambda`.
    """

    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class AvalancheEWC(Method):
    """`EWCPlugin` in mode `separate`."""

    Settings = AvalancheEWCSettings
    resumes = True

    def plugins(self) -> list[SupervisedPlugin]:
        """Avalanche's plugin."""
        self.ewc = EWCPlugin(ewc_lambda=self.settings.strength)
        return [self.ewc]

    def extra_state(self) -> Mapping[str, Tensor]:
        """Weights and importances of every task so far."""
        stores = {"saved_params": self.ewc.saved_params, "importances": self.ewc.importances}
        return {
            f"{store}/{task}/{name}": data.data
            for store, by_task in stores.items()
            for task, by_name in by_task.items()
            for name, data in by_name.items()
        }

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Fills the plugin's dictionaries again."""
        for key, tensor in extra.items():
            store, task, name = key.split("/")
            getattr(self.ewc, store)[int(task)][name] = ParamData(
                name, device=self.workplace.device, init_tensor=tensor.to(self.workplace.device, copy=True)
            )


class AvalancheSISettings(MethodSettings):
    """Hyper-parameters of `avalanche-si`.

    Attributes:
        strength: `si_lambda`.
    """

    strength: float = Field(default=0.1, ge=0, allow_inf_nan=False)


class AvalancheSI(Method):
    """`SynapticIntelligencePlugin`."""

    Settings = AvalancheSISettings
    resumes = True

    @classmethod
    def refuses(cls, suite: Suite, settings: AvalancheSISettings) -> str:
        """A head per task."""
        if suite.head != "multi":
            return ""
        return (
            "avalanche-si cannot train a multi-head network: Avalanche 0.6's plugin reads the gradient of every head, "
            "and those of other tasks have none; use si instead"
        )

    def plugins(self) -> list[SupervisedPlugin]:
        """Avalanche's plugin."""
        self.si = SynapticIntelligencePlugin(si_lambda=self.settings.strength)
        return [self.si]

    def learn(self, task: Task) -> None:
        """Trains on the task, and says so if the plugin has measured nothing.

        On a CPU Avalanche 0.6 compares the weights with a view of themselves (`param.cpu().flatten()` copies
        nothing there), so that every change, and with it every importance, is 0.
        """
        super().learn(task)
        if not any(bool(data.data.any()) for data in self.si.ewc_data[1].values()):
            warnings.warn(
                "Avalanche's plugin protects nothing on this device: every importance it has measured is 0, so the "
                "run equals naive (on a CPU its copies of the weights are views of them)",
                MethodWarning,
                stacklevel=2,
            )

    def _stores(self) -> dict[str, dict[str, Any]]:
        return {"anchor": self.si.ewc_data[0], "importance": self.si.ewc_data[1], **self.si.syn_data}

    def extra_state(self) -> Mapping[str, Tensor]:
        """All of the plugin's dictionaries: seven copies of the weights."""
        return {
            f"{store}/{name}": data.data for store, by_name in self._stores().items() for name, data in by_name.items()
        }

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Fills the plugin's dictionaries again."""
        stores = self._stores()
        for key, tensor in extra.items():
            store, name = key.split("/")
            # On the CPU, where Avalanche's SI keeps them whatever the device.
            stores[store][name] = ParamData(name, init_tensor=tensor.clone())
