"""Count the endings of pairs of processes, connected by gloo, that hang.

    python tests/endings.py model 200              # a wrapped model is freed after its group was left
    python tests/endings.py diverged 200           # a training whose loss becomes nan in the second process
    python tests/endings.py stopped 200            # a training in which both processes get SIGTERM
    python tests/endings.py model 200 --unheld     # the same without the reference that ``destroy_group`` keeps

Each ending has two new processes. A pair that has not ended after a minute counts as hung, and the next pairs start
meanwhile.
"""

import argparse
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml
from starter import Started, Starter

SECONDS_ALONE, SECONDS_UNTIL_HUNG = 5.0, 60.0

UNHELD = """
from ttt.train import processes
class Forgetful(list):
    def append(self, group):
        pass
processes._destroyed_groups = Forgetful()
"""
"""Makes ``destroy_group`` keep no reference, as before it was corrected."""

MODEL = """
import gc, os, sys
from torch import distributed, nn, ones
from torch.nn.parallel import DistributedDataParallel
from ttt.train.processes import destroy_group
for number in range(int(sys.argv[1])):
    store = distributed.FileStore(f"{sys.argv[2]}-{number}", 2)
    distributed.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=2)
    model = DistributedDataParallel(nn.Linear(4, 4))
    model(ones(2, 4)).sum().backward()
    texts = [None, None]
    # The group's thread frees the last of these messages while the model is freed.
    for _ in range(5):
        distributed.all_gather_object(texts, "text")
    destroy_group()
    del model
    gc.collect()
"""
"""Endings of a wrapped model, as many as the first argument says; the second is the beginning of file names."""

TRAIN = """
import os, signal, sys
from pathlib import Path
from ttt.cli.errors import exit_with_one_line
from ttt.train.module import TrainingModule
from ttt.train.start import read_config, train
step = TrainingModule.training_step
def ended(self, windows, batch_idx):
    if self.global_step == 2 and sys.argv[1] == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)
    elif self.global_step == 2 and os.environ["RANK"] == "1":
        self.model.embedding.weight.data.fill_(float("nan"))
    return step(self, windows, batch_idx)
TrainingModule.training_step = ended
with exit_with_one_line():
    train(read_config(Path(sys.argv[2])), [])
"""
"""A training that ends after two steps: ``stopped`` or ``diverged``, then the file of its configuration."""


class Pairs:
    """Starts pairs of processes and counts how they end.

    Args:
        starter: starts the processes.
        kind: model, diverged or stopped.
        held: keep the reference to the group.
        folder: for their files.
    """

    def __init__(self, starter: Starter, kind: str, held: bool, folder: Path) -> None:
        self.starter, self.kind, self.folder = starter, kind, folder
        self.program = ("" if held else UNHELD) + (MODEL if kind == "model" else TRAIN)
        self.config = {} if kind == "model" else tiny_config(folder)
        self.codes: Counter[tuple[int, ...]] = Counter()
        self.late: list[tuple[float, list[Started]]] = []

    def end(self, number: int) -> None:
        """Start a pair and wait for its end, or for a few seconds."""
        started, pair = time.monotonic(), self._start(number)
        while not self._counted(pair):
            if time.monotonic() - started > SECONDS_ALONE:
                self.late.append((started, pair))
                return
            time.sleep(0.02)

    def hung(self) -> int:
        """Return the number of pairs that have not ended a minute after their start, and kill them."""
        count = 0
        for started, pair in self.late:
            while not (ended := self._counted(pair)) and time.monotonic() - started < SECONDS_UNTIL_HUNG:
                time.sleep(0.1)
            count += not ended
            for process in pair:
                process.kill()
        return count

    def _start(self, number: int) -> list[Started]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
        arguments = ["1", str(self.folder / f"store{number}")]
        if self.config:
            path = self.folder / f"{number}.yaml"
            path.write_text(yaml.safe_dump(self.config | {"run": str(self.folder / f"run{number}")}))
            arguments = [self.kind, str(path)]
        ranks = [{"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": rank} for rank in "01"]
        return [self.starter.start(self.program, arguments, environment=address | rank) for rank in ranks]

    def _counted(self, pair: list[Started]) -> bool:
        codes = [process.poll() for process in pair]
        if None in codes:
            return False
        self.codes[tuple(code for code in codes if code is not None)] += 1
        return True


def tiny_config(folder: Path) -> dict[str, object]:
    """Return the configuration of a tiny run in two processes, whose text is prepared."""
    from conftest import TINY
    from hydra import initialize_config_dir

    from ttt.cli.compose import as_object, compose, quote_option, register_schemas
    from ttt.config.assets import assets
    from ttt.config.plain import to_plain
    from ttt.config.schema import TrainConfig
    from ttt.data.corpus import load_corpus

    register_schemas()
    shape = ["trainer.strategy=ddp", "trainer.nodes=2", "trainer.checkpoint_every=1"]
    overrides = [quote_option(text) for text in (*TINY, *shape, f"data.cache_dir={folder}/cache")]
    with initialize_config_dir(str(assets() / "conf"), version_base="1.3"):
        config = as_object(compose("train", overrides), TrainConfig)
    load_corpus(config.data, show_progress=False)
    return to_plain(config)


def main() -> None:
    """Print the number of endings of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("model", "diverged", "stopped"))
    parser.add_argument("endings", type=int)
    parser.add_argument("--unheld", action="store_true", help="without the reference that destroy_group keeps")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        starter = Starter(Path(folder))
        pairs = Pairs(starter, given.kind, not given.unheld, Path(folder))
        for number in range(given.endings):
            pairs.end(number)
        hung = pairs.hung()
        starter.close()
    codes = ", ".join(f"{count} with exit codes {ended}" for ended, count in sorted(pairs.codes.items()))
    print(f"{given.endings} endings: {hung} hung, {codes}", flush=True)


if __name__ == "__main__":
    main()
