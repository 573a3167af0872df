"""What a run imports, and that nothing else of the process is changed."""

import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning_utilities.core import imports

from ttt.train import quick_imports as module
from ttt.train.quick_imports import COMPILER, UNUSED, quick_imports, without_compiler, without_unused

PROGRAM = """
import gc, sys
from ttt.cli.train import main
main()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_run_imports_no_package_that_it_does_not_need(tiny: list[str], tmp_path: Path) -> None:
    """These are installed for other commands, and took half of the time of a run of one step."""
    arguments = [*tiny, f"run={tmp_path / 'run'}", "trainer.max_steps=1"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torchmetrics.text" in loaded
    assert not loaded & {*UNUSED, COMPILER, "torch.distributed.fsdp"}


def test_other_programs_find_the_packages_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of lightning-utilities answer as before, also if an import fails."""
    # The tests hide the packages for good; see tests/quick_imports.py.
    monkeypatch.setattr(imports, "package_available", bool)
    monkeypatch.setattr(imports.RequirementCache, "__bool__", object.__repr__)
    before = imports.package_available, imports.RequirementCache.__bool__
    with suppress(ImportError), without_unused():
        assert not imports.package_available("scipy")
        assert imports.package_available("torch")
        assert not imports.RequirementCache("transformers>=4.4.0")
        raise ImportError
    assert (imports.package_available, imports.RequirementCache.__bool__) == before


def test_garbage_is_collected_after_a_failed_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    monkeypatch.setattr(module, "_import_lightning", lambda: None)
    with suppress(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_the_compiler_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, COMPILER, raising=False)
    with suppress(ImportError), without_compiler():
        assert sys.modules[COMPILER].disable(len, reason="as Lightning says") is len
        raise ImportError
    assert COMPILER not in sys.modules


def test_a_lightning_that_needs_the_compiler_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, COMPILER, raising=False)
    tried = []

    def imported(name: str) -> None:
        if name == "lightning.pytorch":
            tried.append(COMPILER in sys.modules)
            if tried[-1]:
                raise ImportError

    monkeypatch.setattr(module, "importlib", SimpleNamespace(import_module=imported))
    module._import_lightning()
    assert tried == [True, False]
