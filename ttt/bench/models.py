"""Whole language models: training, reading a prompt, and decoding after one.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial

import torch
from torch import Tensor

from ttt.bench.inner import HIDDEN, inner_model
from ttt.bench.latency_kernels import MINI_BATCH_SIZE, kernel_measurements
from ttt.bench.measurement import (
    DTYPES,
    PLAIN,
    Implementation,
    Measurement,
    Workload,
    implementations,
    matmul,
    passes,
)
from ttt.config.bench import LatencyBenchConfig, Method, Methods, ModelBenchConfig, ModelsConfig
from ttt.config.layers import MambaConfig, TTTConfig
from ttt.config.schema import KernelConfig, SizeConfig
from ttt.inner.loop import InnerSpec
from ttt.kernels.dispatch import choose_kernel
from ttt.layers import mamba_kernels
from ttt.layers.inner_state import in_place
from ttt.layers.recurrence import recurrences_of
from ttt.models.build import build_model
from ttt.models.decoder import FixedDecoder, decoder_after
from ttt.models.language_model import LanguageModel, mean_loss
from ttt.models.memory import keep_freed_memory
from ttt.results.benchmarks import PLAIN_RECURRENCE, PLAIN_SCAN

PREFILL = 512
"""Tokens of the prompt before the decoding that ``ttt-bench model`` times."""

State = dict[str, Tensor]
Functions = dict[str, Callable[[], object]]


def model_groups(config: ModelBenchConfig, methods: Methods) -> Iterator[list[Measurement]]:
    """Yield the measurements of training every model at every length, then of decoding with every model.

    Raises:
        UserError: a kernel does not exist, or a model cannot be built.
    """
    for (name, tokens), method in methods.items():
        workload = _workload(name, tokens, method, config.batch)
        group = [matmul(workload, config.dtype)]
        for implementation in _implementations(config, method):
            flops = config.batch * _without_memory(config, method, implementation).flops(tokens)
            build = partial(loss_functions, config, method, implementation, config.batch)
            group += passes(workload, implementation, build, flops, config.backward)
        yield group
    for name in config.models if config.decode else ():
        method = methods[name, config.tokens[0]]
        workload = _workload(name, PREFILL, method, config.batch)
        # The time of a token depends neither on T nor on checkpoint_group, so each kernel is measured once.
        yield [
            _decode(config, workload, method, used, used)
            for used in _implementations(config, method)
            if used == PLAIN or used.checkpoint_group == config.checkpoint_group[0]
        ]


def latency_groups(config: LatencyBenchConfig, methods: Methods, device: torch.device) -> Iterator[list[Measurement]]:
    """Yield the measurements at each context: all models, and on a GPU the kernels without a model.

    Raises:
        UserError: a kernel does not exist or cannot be used, or a model cannot be built.
    """
    kernels_alone = config.inner and device.type == "cuda"
    if kernels_alone:
        choose_kernel(KernelConfig("triton"), InnerSpec(inner_model("linear", config.width)))
    for tokens in config.tokens:
        group: list[Measurement] = []
        for name in config.models:
            method = methods[name, tokens]
            for used in _implementations(config, method):
                _without_memory(config, method, used)
                group += _latencies(config, name, method, used, tokens, device)
        whole = tokens // MINI_BATCH_SIZE * MINI_BATCH_SIZE
        for name in HIDDEN if kernels_alone and whole else ():
            group += kernel_measurements(config, name, whole)
        yield group


def _latencies(
    config: LatencyBenchConfig, name: str, method: Method, used: Implementation, tokens: int, device: torch.device
) -> Iterator[Measurement]:
    """Yield training, prefill and decoding of a model at one context, each with its own batch."""
    shown = _shown(config, method, used, device, tokens)
    if config.train:
        batch = config.train_batch(tokens)
        build = partial(loss_functions, config, method, used, batch)
        yield Measurement(_workload(name, tokens, method, batch), shown, "train", build, batch * tokens)
    build = partial(prefill_functions, config, method, used)
    workload = _workload(name, tokens, method, config.batch)
    yield Measurement(workload, shown, "prefill", build, config.batch * tokens)
    if config.decode:
        shown = _shown(config, method, used, device, 1)
        yield _decode(config, _workload(name, tokens, method, config.decode_batch), method, used, shown)


def _shown(
    config: LatencyBenchConfig, method: Method, used: Implementation, device: torch.device, tokens: int
) -> Implementation | None:
    """Return the implementation to record: of the inner loop, on a GPU of Mamba's scan or a recurrence, else None."""
    if isinstance(method.layer, TTTConfig):
        return used
    if device.type != "cuda":
        return None
    if isinstance(method.layer, MambaConfig):
        return Implementation("mamba-ssm" if mamba_kernels.scan() and mamba_kernels.step() else PLAIN_SCAN, None)
    recurrences = recurrences_of(_without_memory(config, method, used))
    found = {each.package_for(used.config, device, DTYPES[config.dtype], tokens) for each in recurrences}
    return Implementation(", ".join(sorted(name or PLAIN_RECURRENCE for name in found)), None) if found else None


def _decode(
    config: ModelsConfig, workload: Workload, method: Method, used: Implementation, shown: Implementation | None
) -> Measurement:
    # The prompt is read once for all rounds.
    prompt = cache(partial(prompt_state, config, method, used))
    build = partial(decode_functions, config, method, used, prompt, workload.batch)
    return Measurement(workload, shown, "decode", build, workload.batch, repeats=config.decode)


def _workload(name: str, tokens: int, method: Method, batch: int) -> Workload:
    return Workload(name, tokens, getattr(method.layer, "mini_batch_size", None), batch, method.backbone.name)


def _implementations(config: ModelsConfig, method: Method) -> list[Implementation]:
    """Return all implementations, or only the first for a layer without an inner loop, for which all are the same."""
    chosen = implementations(config)
    return chosen if isinstance(method.layer, TTTConfig) else chosen[:1]


def loss_functions(
    config: ModelsConfig, method: Method, implementation: Implementation, batch: int, tokens: int
) -> Functions:
    """Return functions for the mean cross entropy of random tokens and its gradients; all kernels get equal weights.

    Raises:
        UserError: the model cannot be built.
    """
    model = random_model(config, method, implementation)
    parameters = list(model.parameters())
    ids_BS = torch.randint(config.vocab, (batch, tokens + 1))

    def loss() -> Tensor:
        with _autocast(config, ids_BS.device):
            return mean_loss(model, ids_BS)

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss(), parameters, allow_unused=True)

    return {"forward": torch.no_grad()(loss), "forward_backward": gradients, "train": gradients}


def prefill_functions(
    config: LatencyBenchConfig, method: Method, implementation: Implementation, tokens: int
) -> Functions:
    """Return the function that reads a prompt [B, T] of random tokens, up to the logits of the next token."""
    model = inference_model(config, method, implementation)
    ids_BT = torch.randint(config.vocab, (config.batch, tokens))

    @torch.no_grad()
    def prefill() -> object:
        with _inference(config, ids_BT.device):
            return model.read_prompt(ids_BT)

    return {"prefill": prefill}


def prompt_state(config: ModelsConfig, method: Method, implementation: Implementation, tokens: int) -> State:
    """Return the state after a prompt of one sequence, in the host's memory, which leaves the device's memory free."""
    model = inference_model(config, method, implementation)
    ids_BT = torch.randint(config.vocab, (1, tokens))
    with torch.no_grad(), _inference(config, ids_BT.device):
        _, state = model.read_prompt(ids_BT)
    return {name: value.cpu() for name, value in state.items()}


def decode_functions(
    config: ModelsConfig,
    method: Method,
    implementation: Implementation,
    prompt: Callable[[int], State],
    batch: int,
    tokens: int,
) -> Functions:
    """Return the function that reads ``config.decode`` tokens [B, 1] one by one after a prompt of T tokens.

    All sequences have the same prompt, which is read once instead of B times.
    """
    model = inference_model(config, method, implementation)
    next_ids = torch.randint(config.vocab, (config.decode, batch, 1))
    if isinstance(method.layer, TTTConfig) and isinstance(config, LatencyBenchConfig) and config.decode_state != "new":
        # Converted before it is repeated: in float32, the states of 512 sequences of the largest models fill a GPU.
        state = in_place(prompt(tokens), DTYPES[config.decode_state])
        decoder = FixedDecoder(model, for_batch(state, batch, next_ids.device))

        def overwrite() -> None:
            with _inference(config, next_ids.device):
                for ids_B1 in next_ids:
                    decoder(ids_B1)

        return {"decode": overwrite}
    start = for_batch(prompt(tokens), batch, next_ids.device)
    with _inference(config, next_ids.device):
        decode_token = decoder_after(model, start, batch)

    def decode() -> None:
        # The state of attention grows with every token.
        decode_token.restart(start)
        with _inference(config, next_ids.device):
            for ids_B1 in next_ids:
                decode_token(ids_B1)

    return {"decode": decode}


def for_batch(state: State, batch: int, device: torch.device) -> State:
    """Return the state of one sequence repeated ``batch`` times; a scalar is shared and stays on its device."""
    return {
        name: value.to(device).expand(batch, *value.shape[1:]).contiguous() if value.dim() else value
        for name, value in state.items()
    }


def random_model(config: ModelsConfig, method: Method, implementation: Implementation) -> LanguageModel:
    """Return the model of a method with its initial weights. The process keeps freed memory, as in training.

    Raises:
        UserError: the model cannot be built.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    size = SizeConfig("bench", config.width, config.blocks, config.heads, config.mlp_hidden)
    model = build_model(method.layer, size, method.backbone, implementation.config, config.vocab)
    return model.to(torch.float64 if config.dtype == "float64" else torch.float32)


def inference_model(config: ModelsConfig, method: Method, implementation: Implementation) -> LanguageModel:
    """Return ``random_model`` with weights of ``inference_dtype``: decoding spends its time on reading them.

    Raises:
        UserError: the model cannot be built.
    """
    model = random_model(config, method, implementation)
    return model.to(DTYPES[config.inference_dtype]) if isinstance(config, LatencyBenchConfig) else model


def _inference(config: ModelsConfig, device: torch.device) -> AbstractContextManager[object]:
    converted = isinstance(config, LatencyBenchConfig) and config.half_weights
    return nullcontext() if converted else _autocast(config, device)


def _without_memory(config: ModelsConfig, method: Method, implementation: Implementation) -> LanguageModel:
    with torch.device("meta"):
        return random_model(config, method, implementation)


def _autocast(config: ModelsConfig, device: torch.device) -> AbstractContextManager[object]:
    half = config.dtype in ("bfloat16", "float16")
    return torch.autocast(device.type, DTYPES[config.dtype]) if half else nullcontext()
