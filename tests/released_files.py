"""Checkpoints in the layouts of the authors' code: goldens of their JAX code, and files that are written here.

``tests/golden/jax/`` was written by the authors' JAX code with random weights, run in float64 (its RoPE, token index
and constants of GELU too): a stream of parameters, a tree of parameters, and a train state in bfloat16.
``expected.npz`` has the logits of that code.
"""

import json
from pathlib import Path

import msgpack
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from ttt.cli.compose import as_object, compose
from ttt.cli.importing import import_weights
from ttt.config.exchange import ImportConfig

GOLDEN = Path(__file__).parent / "golden" / "jax"
LINEAR = GOLDEN / "ttt_linear"
WORDS = 37
"""Tokens of the golden models."""


def write_tokenizer(path: Path, size: int = WORDS) -> Path:
    """Write a tokenizer of ``size`` words, the first of which ends a document."""
    names = ["</s>", "<unk>", *(f"w{number}" for number in range(size - 2))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str())
    return path


def write_words(path: Path, documents: int, length: int) -> Path:
    """Write documents of random words of this tokenizer, one file each."""
    path.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(documents):
        words = random.integers(0, WORDS - 2, length)
        (path / f"{number}.txt").write_text(" ".join(f"w{word}" for word in words))
    return path


def write_torch(folder: Path, state: dict[str, Tensor], config: dict[str, object], kind: str = "safetensors") -> Path:
    """Write a model of the PyTorch code: ``config.json``, and one file or two shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in state.items()}
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif kind == "torch":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = sorted(state)
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            shard = folder / f"model-0000{number}-of-00002.safetensors"
            save_file({name: state[name] for name in part}, shard)
    return folder


def packed(value: np.ndarray) -> msgpack.ExtType:
    """Return an array as flax packs it: shape, dtype and bytes in an extension of type 1."""
    return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))


def imported(out: Path, *overrides: str, source: Path = LINEAR, tokenizer: Path | None = None) -> Path:
    """Run ``ttt-import``; Hydra must be ready."""
    given = [] if tokenizer is None else [f"tokenizer={tokenizer}"]
    config = as_object(compose("import", [f"source={source}", f"out={out}", *given, *overrides]), ImportConfig)
    import_weights(config, [])
    return out
