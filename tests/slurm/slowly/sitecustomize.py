"""Makes training steps STEP_SECONDS longer; Python imports this at startup if the folder is on its path.

A tiny run ends before a test can disturb it; a run that sleeps between steps can be disturbed without using a CPU.
"""

import importlib
import importlib.util
import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SLOWED = "ttt.train.module"


class Slowly(MetaPathFinder):
    """Finds one module, and changes it after its execution."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if name != SLOWED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            slow_down(module)

        loader.exec_module = exec_module
        return spec


def slow_down(module: Any) -> None:
    """Make the training step sleep first."""
    step = module.TrainingModule.training_step

    def slowly(self: Any, *arguments: Any) -> Any:
        time.sleep(float(os.environ["STEP_SECONDS"]))
        return step(self, *arguments)

    module.TrainingModule.training_step = slowly


if "STEP_SECONDS" in os.environ:
    sys.meta_path.insert(0, Slowly())
    # Every job imports Lightning.
    importlib.import_module("quick_imports").skip_unused_imports()
