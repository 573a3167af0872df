"""Every section of CONTRIBUTING.md works in a copy of the sources, with as many files as its heading states.

So does the tutorial.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recipes import DOCUMENT, TUTORIAL, examples, examples_of, sections
from starter import Starter
from test_architecture import ALLOWED

from ttt.analysis.store import load_results
from ttt.config.assets import assets
from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig
from ttt.results.folders import find_run

ROOT = assets()

TITLES = {
    "A layer",
    "An inner model",
    "A backbone",
    "A data set from installed packages",
    "A data set from elsewhere",
    "An optimizer",
    "A recipe",
    "A metric of every step",
    "A number in the record",
    "A configuration key",
    "A figure",
    "A cluster",
}


def test_every_section_is_found() -> None:
    assert sections().keys() == TITLES


@pytest.mark.parametrize("title", sorted(TITLES))
def test_a_heading_states_the_number_of_files(title: str) -> None:
    count, files = sections()[title]
    assert count == len(files)


def test_the_table_of_imports_is_the_one_that_is_checked() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ?([^|]*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    table = dict(rows)
    assert table.pop("cli") == "all but inner, kernels and api"
    assert ALLOWED.keys() - ALLOWED["cli"] - {"cli"} == {"inner", "kernels", "api"}
    listed = {package: set(filter(None, text.split(", "))) for package, text in table.items()}
    assert listed == {package: below for package, below in ALLOWED.items() if package != "cli"}


@dataclass
class Copy:
    """A copy of the sources with the examples of every section, and programs that run from it."""

    site: Path
    starter: Starter
    tiny: list[str]

    def run(self, module: str, *arguments: str) -> str:
        """Run ``main`` of a module; return all that it prints."""
        done = self.starter.run(f"from {module} import main; raise SystemExit(main())", arguments, cwd=self.site)
        return done.stdout + done.stderr

    def train(self, *arguments: str) -> str:
        """Train a tiny model for one step. The last override of a key wins."""
        return self.run("ttt.cli.train", *self.tiny, "trainer.max_steps=1", *arguments)

    def trained(self, folder: Path, *arguments: str) -> dict[str, Any]:
        """Train a tiny model for one step in ``folder``; return its record."""
        output = self.train(f"run={folder}", *arguments)
        assert "validation perplexity" in output, output
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return record

    def tests(self, *arguments: str) -> str:
        """Run tests on the copy; return the last line of the output if all passed."""
        output = self.run("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(self.site), *arguments)
        assert " passed" in output, output
        assert " failed" not in output, output
        assert " error" not in output, output
        return output.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def copy(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """Copy the sources to where a wheel installs them, and follow every section."""
    site = tmp_path_factory.mktemp("site")
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ttt", site / "ttt", ignore=without)
    for folder in ("conf", "plots", "sweeps", "slurm"):
        shutil.copytree(ROOT / folder, site / "ttt" / folder, ignore=without)
    for name, example in examples().items():
        example.apply(site / "ttt" / name.removeprefix("ttt/"))
    starter = Starter(tmp_path_factory.mktemp("output"), {"PYTHONPATH": str(site)})
    yield Copy(site, starter, tiny)
    starter.close()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write text files and return their folder."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"text {number} " * 400)
    return folder


@pytest.mark.slow
def test_help_lists_what_was_added(copy: Copy) -> None:
    printed = copy.run("ttt.cli.train", "--help")
    assert "Exponential" not in printed
    assert "y_t = decay" in printed
    assert "h + layer(norm(h)) + mlp(norm(h))" in printed
    assert "Every ``.txt`` file of ``data.folder``." in printed
    assert "Python source of two packages for numbers" in printed
    assert "The paper's recipe at a constant learning rate" in printed
    assert re.search(r"recipe\.clip_value=0\.0 +maximum gradient element", printed)


@pytest.mark.slow
def test_a_layer(copy: Copy, tmp_path: Path) -> None:
    record = copy.trained(tmp_path / "run", "model=ema", "model.decay=0.5")
    assert record["label"]["model"] == "ema"
    assert record["label"]["departures"]["model.decay"] == 0.5
    assert "did you mean decay?" in copy.train("model=ema", "model.dekay=0.5")
    copy.tests(str(ROOT / "tests/layers/test_registry.py"), "-k", "ema")


@pytest.mark.slow
def test_a_layer_may_have_an_option_of_its_own(copy: Copy, tmp_path: Path) -> None:
    conf = copy.site / "ttt/conf/model"
    option = conf / "ema.yaml"
    option.write_text((conf / "transformer.yaml").read_text().replace("/transformer@", "/ema@"))
    option.write_text(option.read_text().replace("name: transformer", "name: ema\n  decay: 0.75"))
    try:
        record = copy.trained(tmp_path / "run", "model=ema")
    finally:
        option.unlink()
    assert record["config"]["model"] == {"name": "ema", "decay": 0.75}
    assert "model.decay" not in record["label"]["departures"]


@pytest.mark.slow
def test_an_inner_model(copy: Copy, tmp_path: Path) -> None:
    swiglu = "model.inner_model=swiglu"
    assert copy.trained(tmp_path / "run", swiglu)["config"]["model"]["inner_model"] == "swiglu"
    assert "this inner model has no dual form" in copy.train(f"run={tmp_path}/dual", swiglu, "kernel=dual")
    assert "choose one of linear, mlp, swiglu" in copy.train("model.inner_model=swigly")


@pytest.mark.slow
def test_a_backbone_an_optimizer_a_recipe_and_a_key_in_one_run(
    copy: Copy, tmp_path: Path, configure: Callable[..., TrainConfig]
) -> None:
    added = ["backbone=parallel", "recipe=constant", "recipe.optimizer=sgd", "recipe.clip_value=0.1"]
    record = copy.trained(tmp_path / "run", *added)
    recipe = record["config"]["recipe"]
    assert (recipe["name"], recipe["optimizer"], recipe["clip_value"]) == ("constant", "sgd", 0.1)
    assert (recipe["warmup"], recipe["final_learning_rate"]) == (0, recipe["learning_rate"])
    assert (record["label"]["backbone"], record["identity"]["recipe"]["clip_value"]) == ("parallel", 0.1)
    assert "momentum_buffer" in str(_optimizer_state(tmp_path / "run"))
    written = copy.run("ttt.cli.generate", f"run={tmp_path}/run", "tokens=5", "device=cpu")
    assert "Error" not in written, written
    copy.train(f"runs={tmp_path}/runs")
    (usual,) = (tmp_path / "runs").iterdir()
    assert usual == find_run(tmp_path / "runs", run_id(configure())), "a key at its default renames no run"
    assert "parallel" in copy.train("backbone=paralel")
    assert "recipe.optimizer=adam: choose one of adamw, sgd" in copy.train("recipe.optimizer=adam")
    assert "recipe.clip_value=-1.0: must be at least 0" in copy.train("recipe.clip_value=-1")
    assert "did you mean clip_value?" in copy.train("recipe.clip_valu=1")


def _optimizer_state(folder: Path) -> Any:
    import torch

    (checkpoint,) = (folder / "checkpoints").glob("*.ckpt")
    return torch.load(checkpoint, weights_only=True)["optimizer_states"]


@pytest.mark.slow
def test_a_data_set_from_installed_packages(copy: Copy, tmp_path: Path) -> None:
    record = copy.trained(tmp_path / "run", "data=numbers", "data.packages=[mpmath]")
    assert record["data"]["name"] == "numbers"


@pytest.mark.slow
def test_a_data_set_from_elsewhere(copy: Copy, texts: Path, tmp_path: Path) -> None:
    chosen = ["data=folder", f"data.folder={texts}"]
    assert copy.trained(tmp_path / "run", *chosen)["config"]["data"]["folder"] == str(texts)
    assert "did you mean folder?" in copy.train("data=folder", f"data.foldr={texts}")
    assert "perplexity" in copy.run("ttt.cli.eval", f"run={tmp_path}/run", "split=test", "device=cpu")
    prepared = copy.run("ttt.cli.data", "prepare", *chosen, f"data.cache_dir={tmp_path}/cache")
    assert "source folder:" in prepared


@pytest.mark.slow
def test_a_metric_a_number_and_a_figure(copy: Copy, tmp_path: Path) -> None:
    # A figure about methods draws standard sizes only.
    standard = [f"run={tmp_path}/runs/one", "size=w64", "recipe.tokens_per_step=64", "recipe.steps=1"]
    tiny = [override for override in copy.tiny if not override.startswith("size.")]
    output = copy.run("ttt.cli.train", *tiny, *standard)
    assert "validation perplexity" in output, output
    metrics = pd.read_parquet(tmp_path / "runs/one/metrics.parquet").query("metric == 'largest_weight'")
    assert metrics["step"].tolist() == [1]
    assert metrics["value"].iloc[0] > 0
    results = load_results(tmp_path / "runs")
    assert results.select("train", "largest_weight")["value"].tolist() == metrics["value"].tolist()
    (run,) = results.runs.to_dict("records")
    assert run["last_gradient_norm"] > 0
    assert run["validation_seconds"] > 0
    drawn = copy.run("ttt.cli.plot", "final", f"runs={tmp_path}/runs", f"out={tmp_path}/figures")
    assert "final.png" in drawn
    table = pd.read_csv(tmp_path / "figures/final.csv")
    assert table["run_id"].tolist() == [run["run_id"]]
    assert "Final perplexity of every method" in copy.run("ttt.cli.plot")


@pytest.mark.slow
def test_a_figure_is_published_with_three_files(copy: Copy) -> None:
    root = copy.site / "ttt"
    shutil.copytree(ROOT / "docs", root / "docs")
    # Some of the committed runs are enough, and are read in a tenth of the time.
    for run in (ROOT / "results/laptop").glob("*-w128-*"):
        shutil.copytree(run, root / "results/laptop" / run.name)
    shown = "\n![Final perplexity](docs/figures/final.png)\n\n`ttt-plot final`\n"
    (root / "REPRODUCE.md").write_text((ROOT / "REPRODUCE.md").read_text(encoding="utf-8") + shown, encoding="utf-8")
    copy.run("ttt.cli.plot", "final", f"runs={root}/results/laptop", f"out={root}/docs/figures")
    checks = [str(ROOT / "tests" / name) for name in ("test_docs.py", "test_laptop_results.py")]
    assert copy.tests(*checks, "-k", "final").startswith("3 passed")


@pytest.mark.slow
def test_a_cluster(copy: Copy) -> None:
    assert "The cluster of my group" in copy.run("ttt.cli.sweep.main", "--help")
    program = "from ttt.cli.sweep.expand import load_cluster; print(load_cluster('my_cluster', []))"
    read = copy.starter.run(program, cwd=copy.site).stdout
    for value in ("name='my_cluster'", "partition='long'", "account='my_group'", "constraint='a100'", "mem_gb=64.0"):
        assert value in read
    submit = ["submit", "sweep=rates", "slurm=my_cluster"]
    assert "slurm.acount" in copy.run("ttt.cli.sweep.main", *submit, "slurm.acount=theirs")


@pytest.mark.slow
def test_the_tutorial(copy: Copy, tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    for name, example in examples_of(text).items():
        example.apply(copy.site / "ttt" / name.removeprefix("ttt/"))
    assert "did you mean gate_bias?" in copy.train("model=mingru", "model.gate_bais=0")
    commands = re.findall(r"^    (ttt-train|ttt-plot) (.*)$", text, re.M)
    assert [name for name, _ in commands] == ["ttt-train", "ttt-plot", "ttt-plot", "ttt-train", "ttt-plot"]
    for name, line in commands:
        arguments = re.sub(r"(?<==)(?=runs/|figures/)", f"{tmp_path}/", line).split()
        if name == "ttt-train":
            arguments += [*copy.tiny, "recipe.steps=2"]  # the last override of a key wins
        assert copy.run("ttt.cli." + name.removeprefix("ttt-"), *arguments)
    table = pd.read_csv(tmp_path / "figures/tutorial/compare.csv")
    assert sorted(table["model"].unique()) == ["mingru", "ttt_linear"]
    assert len(load_results(tmp_path / "runs/tutorial").runs) == 4
    assert pd.read_csv(tmp_path / "figures/gate/compare.csv")["model.gate_bias"].nunique(dropna=False) == 3
    for figure in ("tutorial/compare", "tutorial/training", "gate/compare"):
        assert (tmp_path / f"figures/{figure}.png").is_file()
