"""What a run imports, and that nothing else of the process is changed."""

import gc
import subprocess
import sys
from contextlib import suppress

import pytest
from lightning_utilities.core import imports

from ttt.train.quick_imports import UNUSED, quick_imports, without_unused

PROGRAM = """
import gc, sys
from ttt.train.quick_imports import quick_imports
with quick_imports():
    import ttt.train.run
assert gc.isenabled() and gc.get_freeze_count() > 100_000
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_run_imports_no_package_that_it_does_not_need() -> None:
    """These are installed for other commands, and took a third of the time of a run of one step."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torchmetrics.text" in loaded
    assert not loaded & set(UNUSED)


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
    with suppress(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
