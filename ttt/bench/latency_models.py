"""What is timed of whole models: a step of training, reading a prompt, and reading further tokens after one.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial

import torch
from torch import Tensor

from ttt.bench.case import Variant
from ttt.bench.model import random_model, setting_of
from ttt.bench.turns import Task
from ttt.config.bench import LatencyBenchConfig, Method
from ttt.config.layers import TTTConfig
from ttt.models.language_model import token_losses

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

State = dict[str, Tensor]


def model_variants(config: LatencyBenchConfig, method: Method) -> list[Variant]:
    """Every form with every group; a layer without an inner loop is the same in all of them."""
    found = [Variant(form, group) for form in config.kernels for group in config.checkpoint_group]
    return found if isinstance(method.layer, TTTConfig) else found[:1]


def model_tasks(config: LatencyBenchConfig, name: str, method: Method, variant: Variant, tokens: int) -> Iterator[Task]:
    """Training, prefill and decoding of one model at one context, each with the batch that the benchmark has for it."""

    def task(measure: str, batch: int, build: Callable[[int], Callable[[], object]], read: int, times: int) -> Task:
        form = variant if isinstance(method.layer, TTTConfig) else None
        return Task(setting_of(name, tokens, method, batch), form, measure, build, batch * read, times)

    if config.train:
        batch = config.train_batch(tokens)
        yield task("train", batch, partial(train_work, config, method, variant, batch), tokens, 1)
    yield task("prefill", config.batch, partial(prefill_work, config, method, variant), tokens, 1)
    if config.decode:
        # Read once for all rounds.
        prompt = cache(partial(prompt_state, config, method, variant))
        build = partial(decode_work, config, method, variant, prompt)
        yield task("decode", config.decode_batch, build, 1, config.decode)


def train_work(
    config: LatencyBenchConfig, method: Method, variant: Variant, batch: int, tokens: int
) -> Callable[[], object]:
    """Forward and backward pass of the mean cross entropy of random tokens [B, T + 1]."""
    model = random_model(config, method, variant, torch.float32)
    parameters = list(model.parameters())
    windows = torch.randint(config.vocab, (batch, tokens + 1))

    def train() -> object:
        with _autocast(config, windows.device):
            loss = token_losses(model, windows).mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    return train


def prefill_work(
    config: LatencyBenchConfig, method: Method, variant: Variant, tokens: int
) -> Callable[[], tuple[Tensor, State]]:
    """Reading a prompt [B, T] of random tokens, up to the logits of the token after it."""
    model = random_model(config, method, variant, torch.float32)
    prompt = torch.randint(config.vocab, (config.batch, tokens))

    @torch.no_grad()
    def prefill() -> tuple[Tensor, State]:
        with _autocast(config, prompt.device):
            return model.read_prompt(prompt)

    return prefill


def prompt_state(config: LatencyBenchConfig, method: Method, variant: Variant, tokens: int) -> State:
    """The state after a prompt of one sequence, in the host's memory, where it keeps no other task from fitting."""
    model = random_model(config, method, variant, torch.float32)
    prompt = torch.randint(config.vocab, (1, tokens))
    with torch.no_grad(), _autocast(config, prompt.device):
        _, state = model.read_prompt(prompt)
    return {name: value.cpu() for name, value in state.items()}


def decode_work(
    config: LatencyBenchConfig, method: Method, variant: Variant, prompt: Callable[[int], State], tokens: int
) -> Callable[[], None]:
    """Reading ``config.decode`` tokens [B, 1] one by one, every sequence after the same prompt of T tokens.

    Equal prompts cost what different ones do, and are read once instead of B times.
    """
    model = random_model(config, method, variant, torch.float32)
    more = torch.randint(config.vocab, (config.decode, config.decode_batch, 1))
    start = for_batch(prompt(tokens), config.decode_batch, more.device)

    @torch.no_grad()
    def decode() -> None:
        state = start
        with _autocast(config, more.device):
            for ids in more:
                _, state = model(ids, state=state)

    return decode


def for_batch(state: State, batch: int, device: torch.device) -> State:
    """The state of one sequence for ``batch`` equal ones; what all share has no axes, and stays where it is."""
    return {
        name: value.to(device).expand(batch, *value.shape[1:]).contiguous() if value.dim() else value
        for name, value in state.items()
    }


def _autocast(config: LatencyBenchConfig, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, DTYPES[config.dtype], enabled=config.dtype != "float32")
