"""A whole language model: training and decoding.

Shapes: B batch, T tokens, V vocabulary.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from ttt.bench.case import DTYPES, PLAIN, Case, Setting, Variant, Work, variants
from ttt.bench.timing import Measurement, alternate, spread
from ttt.config.bench import Method, Methods, ModelBenchConfig, ModelsConfig
from ttt.config.layers import TTTConfig
from ttt.config.schema import SizeConfig
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel, token_losses
from ttt.models.memory import keep_freed_memory
from ttt.results.benchmarks import Row

PREFILL = 512
"""Tokens that are read before the decoding that is timed."""


def cases(config: ModelBenchConfig, methods: Methods) -> Iterator[Case]:
    """Every model at every length.

    Raises:
        UserError: a form that does not exist.
    """
    chosen = variants(config.kernels, config.checkpoint_group)
    for (name, tokens), method in methods.items():
        setting = setting_of(name, tokens, method, config.batch)
        # A layer without an inner loop is the same in every form.
        forms = chosen if isinstance(method.layer, TTTConfig) else [PLAIN]
        yield Case(setting, forms, partial(model_work, config, method))


def setting_of(name: str, tokens: int, method: Method, batch: int) -> Setting:
    """What all measurements of a model have in common."""
    return Setting(name, tokens, getattr(method.layer, "mini_batch_size", None), batch, method.backbone.name)


def model_work(config: ModelBenchConfig, method: Method, variant: Variant, tokens: int) -> Work:
    """The mean cross entropy of random tokens, all forms with equal weights.

    Raises:
        UserError: a model that cannot be built.
    """
    model = random_model(config, method, variant, DTYPES[config.dtype])
    parameters = list(model.parameters())
    windows = torch.randint(config.vocab, (config.batch, tokens + 1))

    def loss() -> Tensor:
        return token_losses(model, windows).mean()

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss(), parameters, allow_unused=True)

    return Work(torch.no_grad()(loss), gradients, config.batch * model.flops(tokens))


def random_model(config: ModelsConfig, method: Method, variant: Variant, dtype: torch.dtype) -> LanguageModel:
    """The model of this method and form with its initial weights, in a process that keeps memory as training does.

    Raises:
        UserError: a model that cannot be built.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    size = SizeConfig("bench", config.width, config.blocks, config.heads, config.mlp_hidden)
    return build_model(method.layer, size, method.backbone, variant.kernel, config.vocab).to(dtype)


def decode_rows(config: ModelBenchConfig, methods: Methods) -> Iterator[list[Row]]:
    """Seconds a token of reading one by one after ``PREFILL`` others, the forms in turn; the rows of a model at once.

    What a token takes depends neither on T nor on ``checkpoint_group``, so each form stands once.
    """
    for name in config.models if config.decode else ():
        method = methods[name, config.tokens[0]]
        (case,) = cases(config, {(name, PREFILL): method})
        forms = [v for v in case.variants if v == PLAIN or v.checkpoint_group == config.checkpoint_group[0]]
        models = {variant: random_model(config, method, variant, DTYPES[config.dtype]) for variant in forms}
        steps = {variant: [decoding(model, config)] for variant, model in models.items()}
        with tqdm(total=(config.rounds + 1) * len(steps), desc=f"{name} decode", leave=False, disable=None) as bar:
            times = alternate(steps, config.rounds, bar.update)
        yield [case.setting.row(variant, measure, spread(of), "s") for (variant, measure), of in times.items()]


@torch.no_grad()
def decoding(model: LanguageModel, config: ModelBenchConfig) -> Measurement:
    """Reads ``PREFILL`` tokens; returns what reads the next ones, and takes the median of them."""
    _, prefilled = model(torch.randint(config.vocab, (config.batch, PREFILL)), state={})
    next_ids = torch.randint(config.vocab, (config.decode, config.batch, 1))

    @torch.no_grad()
    def read() -> dict[str, float]:
        state, seconds = prefilled, []
        for ids in next_ids:
            started = time.perf_counter()
            _, state = model(ids, state=state)
            seconds.append(time.perf_counter() - started)
        return {"decode": statistics.median(seconds)}

    return read
