"""The authors' checkpoints are read from their files, name by name, and nothing in them is executed."""

import json
import pickle
import shutil
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from released_files import GOLDEN, packed, write_torch
from torch import Tensor

from ttt.config.errors import UserError
from ttt.models.language_model import LanguageModel
from ttt.models.released import from_released, to_released
from ttt.models.released_files import read_released
from ttt.models.released_meta import config_of, settings_of

CASES = {
    "ttt_linear": ("streaming_params", None),
    "ttt_mlp": ("streaming_train_state", 7),
    "ttt_mlp_base": ("params.msgpack", None),
}
"""Folder of ``GOLDEN`` -> its file, and the optimizer steps in it."""


def model_in(path: Path) -> LanguageModel:
    weights = read_released(path)
    return from_released(weights.state, settings_of(weights.state, path, None, None, None).meta, "dual").double()


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_of_the_jax_code_give_its_logits(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    logits = model_in(GOLDEN / case)(torch.tensor(expected["ids"]))
    assert np.abs(logits.detach().numpy() - expected["logits"]).max() < 1e-10
    assert read_released(GOLDEN / case).step == CASES[case][1]


@pytest.fixture
def stored() -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return weights in the PyTorch layout, with a tied head, and their ``config.json``."""
    weights = read_released(GOLDEN / "ttt_linear")
    settings = settings_of(weights.state, GOLDEN / "ttt_linear", None, None, None)
    state = weights.state | {"lm_head.weight": weights.state["model.embed_tokens.weight"].clone()}
    return state, config_of(settings.meta, settings.ctx)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "shards"])
def test_files_of_the_pytorch_code_come_back(tmp_path: Path, stored: tuple, kind: str) -> None:
    state, config = stored
    folder = write_torch(tmp_path / "model", state, config, kind)
    back = to_released(model_in(folder))
    assert back.keys() == state.keys() - {"lm_head.weight"}
    assert all((value - state[name]).abs().max() < 1e-10 for name, value in back.items())


def test_an_array_in_parts(tmp_path: Path) -> None:
    """Flax writes arrays of over 1 GiB in parts."""
    tree = msgpack.unpackb((GOLDEN / "ttt_mlp_base" / "params.msgpack").read_bytes(), strict_map_key=False)
    embedding = model_in(GOLDEN / "ttt_mlp_base").embedding.weight.detach()
    flat = embedding.flatten().numpy()
    parts = {str(number): packed(part) for number, part in enumerate(np.split(flat, [100, 300]))}
    shape = {str(number): length for number, length in enumerate(embedding.shape)}
    tree["params"]["model"]["wte"]["embedding"] = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": parts}
    (tmp_path / "params.msgpack").write_bytes(msgpack.packb(tree))
    assert torch.equal(read_released(tmp_path).state["model.embed_tokens.weight"], embedding)


class Danger:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "executed")


def write_pickles(folder: Path, state: dict[str, Tensor]) -> None:
    torch.save({**state, "more": Danger(folder / "harm")}, folder / "pytorch_model.bin")


def write_plain_pickle(folder: Path, _: dict[str, Tensor]) -> None:
    (folder / "streaming_params").write_bytes(pickle.dumps(Danger(folder / "harm")))


def write_cut(folder: Path, _: dict[str, Tensor]) -> None:
    content = (GOLDEN / "ttt_linear" / "streaming_params").read_bytes()
    (folder / "streaming_params").write_bytes(content[: len(content) // 2])


def write_other(folder: Path, _: dict[str, Tensor]) -> None:
    torch.save({"transformer.wte.weight": torch.zeros(2)}, folder / "model.pt")


def write_other_tree(folder: Path, _: dict[str, Tensor]) -> None:
    tree = {"params": {"encoder": {"kernel": packed(np.zeros(2))}}}
    (folder / "params.msgpack").write_bytes(msgpack.packb(tree))


def write_objects(folder: Path, _: dict[str, Tensor]) -> None:
    (folder / "params.msgpack").write_bytes(msgpack.packb({"params": msgpack.ExtType(9, b"?")}))


def write_two(folder: Path, _: dict[str, Tensor]) -> None:
    for name in ("streaming_params", "streaming_params_100"):
        shutil.copy(GOLDEN / "ttt_linear" / "streaming_params", folder / name)


def write_noise(folder: Path, _: dict[str, Tensor]) -> None:
    (folder / "model.safetensors").write_bytes(b"noise")


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (write_pickles, "holds pickled objects other than tensors, which are never loaded"),
        (write_plain_pickle, "cannot be read"),
        (write_cut, "is missing"),
        (write_other, "has not the layout of the authors' models (its first parameter is transformer.wte.weight)"),
        (write_other_tree, "has not the layout of the authors' JAX models with a TTT layer: encoder/kernel"),
        (write_objects, "an extension of type 9, which is no array"),
        (write_two, "several checkpoints (streaming_params, streaming_params_100); name one"),
        (write_noise, "damaged or no safetensors"),
        (lambda folder, _: (folder / "notes.md").touch(), "contains no weights in a layout of the authors"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_other_files_are_named_in_one_line(tmp_path: Path, stored: tuple, write: object, line: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, stored[0])  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        model_in(folder)
    assert line in str(caught.value)
    assert str(folder) in str(caught.value) or "released weights" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "harm").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads=4, but the weights are of a model with 2"),
        (
            {"seq_modeling_block": "ttt_mlp"},
            "seq_modeling_block=ttt_mlp, but the weights are of a model with ttt_linear",
        ),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-05, but the weights are of a model with 1e-06"),
    ],
    ids=str,
)
def test_a_configuration_of_another_model_is_refused(
    tmp_path: Path, stored: tuple, change: dict[str, object], line: str
) -> None:
    folder = write_torch(tmp_path / "model", stored[0], stored[1] | change)
    with pytest.raises(UserError, match=r"config\.json: ") as caught:
        model_in(folder)
    assert line in str(caught.value)


def test_every_missing_and_unknown_name_is_counted(tmp_path: Path, stored: tuple) -> None:
    state, config = stored
    state = {name: value for name, value in state.items() if "layers.1.mlp" not in name}
    state["model.layers.1.mlp.bias"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        model_in(write_torch(tmp_path / "model", state, config))
    names = ", ".join(f"model.layers.1.mlp.{name}_proj.weight" for name in ("down", "gate", "up"))
    unknown = "model.layers.1.mlp.bias does not belong to the model that meta describes"
    assert str(caught.value) == f"released weights: {names} are missing; {unknown}"


def test_a_head_of_its_own_is_refused(tmp_path: Path, stored: tuple) -> None:
    state, config = stored
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(UserError, match="has an output head of its own"):
        model_in(write_torch(tmp_path / "model", state, config))


def test_what_no_file_says_is_assumed_and_told(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "ttt_mlp" / "streaming_train_state", tmp_path)
    weights = read_released(tmp_path)
    settings = settings_of(weights.state, tmp_path, None, None, None)
    assert settings.assumed == {"ttt_base_lr": 0.1, "rope_theta": 10000.0, "ctx": 2048.0}
    given = settings_of(weights.state, tmp_path, 0.5, None, 64)
    assert (given.meta["ttt_base_lr"], given.ctx, given.assumed) == (0.5, 64, {"rope_theta": 10000.0})
    (tmp_path / "config.json").write_text(json.dumps({"ttt_base_lr": 0.2, "max_sequence_length": 128}))
    read = settings_of(weights.state, tmp_path, None, None, None)
    assert (read.meta["ttt_base_lr"], read.ctx) == (0.2, 128)
