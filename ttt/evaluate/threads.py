"""The number of CPU threads that decode a token."""

import torch

from ttt.config.errors import counted
from ttt.config.system import available_cores
from ttt.models.language_model import LanguageModel
from ttt.results.record import Record

SMALL = 20_000_000
"""Parameters below which one thread decodes.

Measured with 0.2M to 350M parameters on 2 cores (AVX-512), in alternating rounds. On a quiet machine two threads had
0.87 to 1.04 times the speed of one. Beside two busy processes they were 2 to 30 times slower, in all models measured
(TTT-Linear and Transformer up to 11M parameters), since every product of matrices waits for both threads.
"""


def set_threads(model: LanguageModel, record: Record, asked: int) -> str:
    """Let torch compute with the number of ``decoding_threads``; return a line that says it."""
    threads, why = decoding_threads(model, record, asked)
    torch.set_num_threads(threads)
    return f"{counted(threads, 'thread')}: {why}"


def decoding_threads(model: LanguageModel, record: Record, asked: int) -> tuple[int, str]:
    """Return the number of threads, and the reason for it in a few words.

    Args:
        model: the model that decodes, on a CPU.
        record: of its run; ``trainer.threads`` counts if the run's command set it, up to the number of cores here.
        asked: ``threads`` of the command; 0: not given.
    """
    if asked:
        return asked, "by threads="
    of_run = record["config"]["trainer"]["threads"]
    if of_run and any(override.startswith("trainer.threads=") for override in record["overrides"]):
        return min(of_run, available_cores()), "by the run's trainer.threads; threads=N changes it"
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        return 1, "the model is small; threads=N changes it"
    return torch.get_num_threads(), "torch's choice; threads=N changes it"
