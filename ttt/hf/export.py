"""Export of a run as a folder of transformers: configuration, weights, tokenizer, and a model card."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ttt.config.identity import context_name
from ttt.config.schema import KernelConfig
from ttt.data.tokenizer import plain_json
from ttt.data.vocabulary import JSON, open_vocabulary
from ttt.evaluate.card import model_card
from ttt.evaluate.run import TrainedRun, load_run
from ttt.hf.configuration import MODEL_TYPE
from ttt.hf.same_tokens import check_same_tokens
from ttt.results.atomic import write_bytes
from ttt.results.checkpoints import Choice
from ttt.results.record import RunFolder

WEIGHTS, MODULE = "model.safetensors", "modeling_ttt_suite"
GROUPS = ("model", "size", "backbone")
"""Groups of a run's configuration that its weights depend on."""

CODE = '''"""Loads this model with trust_remote_code=True; its code is in the package ttt-suite."""

try:
    from ttt.hf import TTTSuiteConfig, TTTSuiteForCausalLM, TTTSuiteTokenizer
except ImportError as error:
    raise ImportError("this model needs the package ttt-suite; install it from the repository in its README") from error

__all__ = ["TTTSuiteConfig", "TTTSuiteForCausalLM", "TTTSuiteTokenizer"]
'''


def export_hf(folder: RunFolder, out: Path, choice: Choice = Choice()) -> list[Path]:  # noqa: B008 - frozen
    """Write a run as a folder that transformers reads, weights in float32; return the files.

    Args:
        folder: a run with a checkpoint.
        out: the folder to write, created if it is missing.
        choice: the weights.

    Raises:
        UserError: there is no run or no undamaged checkpoint, transformers would read other tokens than the run, or
            the folder cannot be written.
    """
    run = load_run(folder, torch.device("cpu"), kernel=KernelConfig(), choice=choice)
    tokenizer = run.tokenizer()
    read_by_transformers = tokenizer_files(tokenizer, run.reading.ctx)
    check_same_tokens(tokenizer, read_by_transformers)
    state = {f"model.{name}": value.contiguous() for name, value in run.model.state_dict().items()}
    content = run.record.content
    # The largest file first, so that a full disk is noticed before others are written.
    files = {
        WEIGHTS: save(state, metadata={"format": "pt"}),
        "config.json": _as_json(_config(run, tokenizer)),
        **read_by_transformers,
        f"{MODULE}.py": CODE.encode(),
        "README.md": model_card(content, run.step, context_name(run.reading.ctx), run.weights).encode(),
    }
    for name, data in files.items():
        write_bytes(out / name, data)
    return [out / name for name in sorted(files)]


def _config(run: TrainedRun, tokenizer: Path) -> dict[str, Any]:
    plain, end = run.record.content["config"], open_vocabulary(tokenizer.parent).end
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["TTTSuiteForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODULE}.TTTSuiteConfig",
            "AutoModelForCausalLM": f"{MODULE}.TTTSuiteForCausalLM",
        },
        "dtype": "float32",
        "vocab_size": run.model.embedding.num_embeddings,
        "hidden_size": plain["size"]["width"],
        "num_hidden_layers": len(run.model.blocks),
        "num_attention_heads": plain["size"]["heads"],
        "max_position_embeddings": run.reading.ctx,
        "tie_word_embeddings": False,
        # As in training, a document begins after the end of another one.
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "suite": {group: plain[group] for group in GROUPS} | {"kernel": {"name": "auto"}},
    }


def tokenizer_files(tokenizer: Path, ctx: int) -> dict[str, bytes]:
    """Return the tokenizer files of the export for transformers: file name -> content.

    Args:
        tokenizer: its file in the run's folder.
        ctx: tokens of the run's context.
    """
    vocabulary, own = open_vocabulary(tokenizer.parent), "TTTSuiteTokenizer"
    end = vocabulary.name_of(vocabulary.end)
    kind: dict[str, Any] = {"tokenizer_class": own, "auto_map": {"AutoTokenizer": [f"{MODULE}.{own}", None]}}
    if tokenizer.name == JSON:
        kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config = kind | {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": ctx,
        # The text of the end token in a document is ordinary text, as in training.
        "split_special_tokens": True,
    }
    content = plain_json(tokenizer) if tokenizer.name == JSON else tokenizer.read_bytes()
    return {tokenizer.name: content, "tokenizer_config.json": _as_json(config)}


def _as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
