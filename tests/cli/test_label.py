"""The label of a run: its departures from ``conf/``, and its row of Table 1."""

from collections.abc import Callable
from dataclasses import asdict

import hydra
import pytest

from ttt.analysis.listing import label_in_words
from ttt.analysis.names import run_name
from ttt.analysis.table_1 import TABLE_1
from ttt.cli.label import NOT_COMPARED, hydra_ready, label_of, label_of_plain, standard
from ttt.cli.sweep.expand import expand, load_sweep
from ttt.config.label import Label, TableForm
from ttt.config.plain import to_plain
from ttt.config.schema import TrainConfig

Configure = Callable[..., TrainConfig]


@pytest.mark.parametrize("row", TABLE_1)
def test_a_row_of_table_1_is_recognised_at_any_context(row: int, configure: Configure) -> None:
    label = label_of(configure(f"+ablation=row{row}", "ctx.length=192"))
    assert (label.row, label.form) == (row, TableForm.RELEASED)


def test_one_setting_more_is_no_row_but_a_rope_base_may_differ(configure: Configure) -> None:
    assert label_of(configure("+ablation=row6", "model.momentum=0.5")).row is None
    assert label_of(configure("+ablation=row6", "model.rope_base=500")).row == 6
    assert label_of(configure("model=ttt_mlp")).row is None


def test_a_row_in_the_form_of_the_text_may_have_any_inner_rate(configure: Configure) -> None:
    text = label_of(configure("+ablation=[row5,paper_text]", "model.eta_base=0.1", "model.eta_base_start=0.1"))
    assert (text.row, text.form) == (5, TableForm.PAPER)
    assert label_of(configure("+ablation=row5", "model.eta_base_start=0.1")).row is None


def test_an_inner_rate_that_takes_its_start_along_is_one_departure(configure: Configure) -> None:
    assert label_of(configure("model=ttt_mlp", "model.eta_base=0.2")).departures_of("model") == {"model.eta_base"}
    both = label_of(configure("model=ttt_mlp", "model.eta_base=0.2", "model.eta_base_start=0.01"))
    assert "model.eta_base" in both.departures_of("model")
    older = label_of(configure("model=ttt_linear", "model.eta_base=2", "model.eta_base_start=1"))
    assert older.departures_of("model") == {"model.eta_base"}
    changed = label_of(configure("model=ttt_linear", "model.eta_base=2", "model.eta_base_start=0.5"))
    assert changed.departures_of("model") == {"model.eta_base", "model.eta_base_start"}


def test_values_of_an_earlier_version_are_no_departures(configure: Configure) -> None:
    plain = asdict(configure())
    plain["model"]["token_scale"] = True
    assert label_of_plain(plain) == label_of(configure())


@pytest.mark.slow
def test_a_sweep_stores_its_labels(tmp_path) -> None:
    plan = expand(load_sweep("ablation", "laptop"), tmp_path)
    labels = [Label.from_plain(run.label) for run in plan.runs if run.label]
    released, short = TableForm.RELEASED, TableForm.SHORT_ROPE
    expected = [(4, released), (5, released), (5, short), (6, released)]
    assert [(label.row, label.form) for label in labels[3:7]] == expected


def test_departures_have_their_types_and_survive_a_record(configure: Configure) -> None:
    config = configure("model.hidden=[4,4]", "model.inner_model=mlp", "model.norm=false", "model.learnable_norm=false")
    label = label_of(config)
    assert label.departures_of("model") == {
        "model.hidden",
        "model.inner_model",
        "model.learnable_norm",
        "model.norm",
    }
    assert label.departures["model.hidden"] == [4, 4]
    assert label.departures["size.width"] == 16
    assert Label.from_plain(label.to_plain() | {"of a newer version": 1}) == label


def test_a_hybrid_departs_by_the_keys_of_its_layers(configure: Configure) -> None:
    changed = ("model.pattern=[ttt_mlp]", "model.sliding_attention.window=16", "model.ttt_mlp.eta_base=0.2")
    departures = label_of(configure("model=hybrid", *changed)).departures
    assert {key: value for key, value in departures.items() if key.startswith("model.")} == {
        "model.pattern": ["ttt_mlp"],
        "model.sliding_attention.window": 16,
        "model.ttt_mlp.eta_base": 0.2,
    }


def test_the_name_of_a_row_of_table_1_does_not_hide_another_size(configure: Configure) -> None:
    config = configure("+ablation=row5", "size.width=32", "size.heads=2")
    label = label_of(config)
    assert "width=32" in label_in_words(label, to_plain(config))
    assert "row 5" in label_in_words(label, to_plain(config))
    assert run_name(label, "") == "TTT-Linear (T), row 5 of Table 1, 4 other settings"
    standard = configure("model=ttt_linear", "backbone=mamba", "size.width=32")
    assert "width=32" in label_in_words(label_of(standard), to_plain(standard))


def test_what_conf_does_not_have_departs_from_nothing(configure: Configure) -> None:
    plain = asdict(configure())
    plain["model"], plain["size"] = {"name": "<gla>", "gate": 1}, {"name": "mine", "width": 3}
    assert label_of_plain(plain) == Label("<gla>", "mamba", "mine", 64)


def test_a_size_that_is_read_without_hydra_is_the_one_that_it_composes() -> None:
    with hydra_ready():
        composed = hydra.compose("train", ["size=w128"]).size
    matched = {"match", "match_flops"}
    assert standard("size", "w128") == {key: composed[key] for key in composed.keys() - NOT_COMPARED - matched}
