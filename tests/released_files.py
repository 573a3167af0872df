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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from ttt.cli.compose import as_object, compose
from ttt.cli.importing import import_weights
from ttt.config.exchange import ImportConfig
from ttt.models.released_files import read_released
from ttt.models.released_meta import BASE_RATE, ROPE_BASE, config_of, settings_of

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


PLANTED = [f"word{chr(ord('a') + number)}" for number in range(WORDS - 6)]
"""Words of ``write_word_pieces``."""


def write_word_pieces(path: Path) -> Path:
    """Write a tokenizer of as many tokens, whose words are pieces with a blank, as the lines of a probe need them."""
    names = ["</s>", "<unk>", *(f"▁{name}" for name in ("=", "==", "\n", ".", *PLANTED))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    lines = pre_tokenizers.Split("\n", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str())
    return path


def write_words(path: Path, documents: int, length: int, words: list[str] | None = None) -> Path:
    """Write documents of random words of ``write_tokenizer``, or of others, one file each."""
    path.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(documents):
        chosen = random.choice(words or [f"w{number}" for number in range(WORDS - 2)], length)
        (path / f"{number}.txt").write_text(" ".join(chosen))
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


def write_standard(folder: Path, layout: str) -> Path:
    """Write a model of the paper's mini-batch, 16 tokens, and a context of 1024: TTT-Linear, or in JAX TTT-MLP (T)."""
    case = {"safetensors": "ttt_linear", "flax": "ttt_mlp_base"}[layout]
    weights = read_released(GOLDEN / case)
    settings = settings_of(weights.state, GOLDEN / case, None, None, None)
    rate = BASE_RATE[settings.meta["layer"]]
    meta = settings.meta | {"mini_batch_size": 16, "ttt_base_lr": rate, "rope_theta": ROPE_BASE}
    config = config_of(meta, 1024)
    if layout == "safetensors":
        longer = {name: torch.zeros(16) for name in weights.state if name.endswith("learnable_token_idx")}
        return write_torch(folder, {name: value.float() for name, value in (weights.state | longer).items()}, config)
    tree = msgpack.unpackb((GOLDEN / case / "params.msgpack").read_bytes(), strict_map_key=False)
    for block in tree["params"]["model"]["h"].values():
        block["seq_modeling_block"]["learnable_token_idx"] = packed(np.zeros(16, np.float32))
    folder.mkdir(parents=True)
    (folder / "params.msgpack").write_bytes(msgpack.packb(tree))
    (folder / "config.json").write_text(json.dumps(config))
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
