"""Keys of ``ttt-generate``."""

from dataclasses import dataclass

from ttt.config.keys import LARGEST_SEED, MOST_WORKERS, REQUIRED, key
from ttt.config.schema import KernelConfig
from ttt.config.trainer import DEVICES


@dataclass
class GenerateConfig:
    """A run of ``ttt-generate``."""

    run: str = key(REQUIRED, "folder of a trained run", free_text=True)
    prompt: str = key("", "text to continue; empty: the start of a document")
    tokens: int = key(200, "maximum number of tokens to generate; the document may end earlier", at_least=1)
    temperature: float = key(0.8, "below 1 prefers likely tokens; 0: always the likeliest", at_least=0)
    top_k: int | None = key(40, "sample from this many of the likeliest tokens; null: from all", at_least=1)
    seed: int = key(0, "seed of the samples", at_least=0, at_most=LARGEST_SEED)
    device: str = key("auto", "where to compute", choices=DEVICES)
    threads: int = key(0, "CPU threads; 0: one below 20M parameters", at_least=0, at_most=MOST_WORKERS)
    kernel: KernelConfig | None = key(
        None, "kernel that computes the inner loop; null: the run's, or auto if it cannot run here"
    )
