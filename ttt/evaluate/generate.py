"""Text generation: the prompt is read at once, then tokens are sampled one by one.

Shapes: B = 1 sequence, T tokens, V vocabulary.
"""

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt.config.errors import DivergedError
from ttt.data.vocabulary import open_vocabulary
from ttt.evaluate.run import TrainedRun
from ttt.layers.diagnose import with_diagnosis
from ttt.layers.state import READ_CHUNK, State
from ttt.models.decoder import decoder_after
from ttt.models.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """Settings of the choice of the next token.

    Attributes:
        temperature: divisor of the logits; 0: always the likeliest token.
        top_k: sample only from the ``top_k`` likeliest tokens; None: from all.
        seed: seed of the samples.
    """

    temperature: float
    top_k: int | None
    seed: int


@dataclass(frozen=True)
class Speed:
    """Numbers of tokens and times of reading and writing.

    Attributes:
        read: tokens of the prompt.
        read_seconds: time to the first token.
        written: tokens generated.
        write_seconds: time from the first token to the last.
    """

    read: int
    read_seconds: float
    written: int
    write_seconds: float

    def __str__(self) -> str:
        prefill = f"prefill: {self.read} tokens, {self.read / self.read_seconds:,.0f} tokens/s"
        if self.written == 1:
            return prefill
        return f"{prefill}; decode: {self.written} tokens, {(self.written - 1) / self.write_seconds:,.0f} tokens/s"


def generate_text(run: TrainedRun, prompt: str, tokens: int, sampling: Sampling, show: Callable[[str], None]) -> Speed:
    """Generate ``tokens`` tokens after ``prompt``, or up to the end of the document, and show the text as it comes.

    Args:
        run: the run with the model.
        prompt: the text to continue; empty: the start of a document.
        tokens: maximum number of tokens to generate.
        sampling: the choice of each token.
        show: called with each new part of the text, in whole characters.

    Raises:
        DivergedError: the model's logits are not finite.
    """
    vocabulary = open_vocabulary(run.tokenizer().parent)
    # As in training, where every document follows the end token of another one.
    ids = vocabulary.encode([prompt])[0][:-1].tolist() or [vocabulary.end]
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    times = [time.perf_counter()]
    for _, token in zip(range(tokens), continuation(run.model, ids, sampling), strict=False):
        times.append(time.perf_counter())
        if token == vocabulary.end:
            break
        show(characters.decode(vocabulary.bytes_of(token)))
    show(characters.decode(b"", final=True))
    return Speed(len(ids), times[1] - times[0], len(times) - 1, times[-1] - times[1])


@torch.no_grad()
def continuation(model: LanguageModel, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield tokens after ``ids`` without end, each sampled from the model's logits after all previous tokens.

    Raises:
        DivergedError: the logits are not finite.
    """
    model.eval()
    generator = torch.Generator().manual_seed(sampling.seed)
    ids_BT = torch.tensor([ids], device=model.embedding.weight.device)
    logits_BV, state = read_start(model, ids_BT, READ_CHUNK)
    decode = decoder_after(model, state, len(ids_BT))
    read = list(ids)
    while True:
        if not logits_BV[0].isfinite().all():
            raise DivergedError(with_diagnosis("the logits are not finite", model, ids_BT.new_tensor([read])))
        token = choose(logits_BV[0], sampling, generator)
        read.append(token)
        yield token
        logits_BV = decode(ids_BT.new_tensor([[token]]))


def read_start(model: LanguageModel, ids_BT: Tensor, at_once: int) -> tuple[Tensor, State]:
    """Read whole prompts, at most ``at_once`` tokens at a time; return the last logits [B, V] and the state."""
    state: State = {}
    for chunk_BT in ids_BT.split(min(at_once, READ_CHUNK), dim=1):
        logits_BTV, state = model(chunk_BT, state)
    return logits_BTV[:, -1], state


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return the next token."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    logits, ids = logits_V.cpu().double().topk(min(sampling.top_k or len(logits_V), len(logits_V)))
    # Subtract the largest logit, so that dividing by a low temperature cannot overflow.
    weights = ((logits - logits[0]) / sampling.temperature).exp()
    return int(ids[torch.multinomial(weights, 1, generator=generator)])
