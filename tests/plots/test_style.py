import numpy as np
import pytest
from matplotlib.figure import Figure

from ttt.analysis.labels import FINETUNED
from ttt.plots.panels import caption, plain_log_ticks
from ttt.plots.smoothing import window_means
from ttt.plots.style import LATER, PAPER, legend_order, method_name, method_styles, styles_apart


def test_methods_of_the_paper_differ_without_colour() -> None:
    without_colour = {(style.dashes, style.marker, style.filled) for style in PAPER.values()}
    assert len(without_colour) == len({style.colour for style in PAPER.values()}) == len(PAPER)


def test_later_methods_differ_from_all_others() -> None:
    styles = [*PAPER.values(), *LATER.values()]
    assert len({style.colour for style in styles}) == len({style.label for style in styles}) == len(styles)
    for style in LATER.values():
        assert [other for other in styles if (other.dashes, other.marker) == (style.dashes, style.marker)] == [style]
    assert method_name("mamba2", "own") == "Mamba-2"
    assert method_name("gated_deltanet", "transformer") == "Gated DeltaNet"


def test_the_backbone_is_shown_where_a_layer_can_sit_in_several() -> None:
    assert method_name("ttt_linear", "transformer") == "TTT-Linear (T)"
    assert method_name("linear_attention", "transformer") == "Linear attention (T)"
    assert method_name("mamba", "own") == "Mamba"
    assert method_name("rwkv", "mamba") == "rwkv (M)"


def test_changed_settings_are_part_of_the_name() -> None:
    assert method_name("ttt_mlp", "mamba", "", "b = 4") == "TTT-MLP (M), b = 4"
    assert method_name("ttt_mlp", "mamba", "", "*") == "TTT-MLP (M)*"
    assert method_name("ttt_mlp", "mamba", "", "*, b = 4") == "TTT-MLP (M)*, b = 4"


@pytest.mark.parametrize("paper", [0, 1, 3, 8])
def test_no_two_lines_look_alike_in_colour_or_in_grey(paper: int) -> None:
    names = [*list(PAPER)[:paper]]
    methods = [(*name, "", "") for name in names] + [("ttt_mlp", "mamba", "", f"b = {b}") for b in range(12 - paper)]
    styles = list(method_styles(methods).values())
    assert len({(style.dashes, style.marker, style.filled) for style in styles}) == len(methods)
    assert len({style.colour for style in styles}) == len(methods)


def test_a_method_keeps_the_papers_look_where_the_caption_names_its_change() -> None:
    (style,) = styles_apart(["TTT-MLP (M)*"]).values()
    assert (style.label, style.colour) == ("TTT-MLP (M)*", PAPER["ttt_mlp", "mamba"].colour)


def test_the_legend_begins_with_the_paper_and_counts() -> None:
    mlp_4, mlp_16 = ("ttt_mlp", "mamba", "", "b=4"), ("ttt_mlp", "mamba", "", "b=16")
    rwkv, linear = ("rwkv", "mamba", "", ""), ("ttt_linear", "mamba", "", "")
    assert sorted([rwkv, mlp_16, mlp_4, linear], key=lambda method: legend_order(*method)) == [
        linear,
        mlp_4,
        mlp_16,
        rwkv,
    ]


def test_window_means() -> None:
    x, values = np.array([1.0, 2.0, 3.0, 7.0]), np.array([1.0, 2.0, 6.0, 5.0])
    means = window_means(x, values, centres=np.array([1.0, 2.0, 5.0, 7.0]), width=2)
    np.testing.assert_array_equal(means, [1.5, 3.0, np.nan, 5.0])


@pytest.mark.parametrize(("low", "high"), [(10, 13), (12, 40), (20, 900), (1, 1e6)])
def test_logarithmic_axes_have_a_few_plain_numbers(low: float, high: float) -> None:
    axes = Figure().subplots()
    axes.set(yscale="log", ylim=(low, high))
    plain_log_ticks(axes.yaxis)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert 3 <= len(labels) <= 7
    assert [float(label) for label in labels] == pytest.approx(axes.get_yticks().tolist())


def test_a_finetuned_transformer_is_named_as_in_the_paper() -> None:
    assert method_name("transformer", "transformer", FINETUNED) == "TF finetune"
    assert method_name("ttt_linear", "mamba", FINETUNED) == "TTT-Linear (M), finetuned"


def test_a_caption_that_gets_a_further_sentence_keeps_its_words_and_settings_whole() -> None:
    canvas, sentence = Figure(figsize=(1.2, 2)), "All runs: TTT-Linear (M), mini_batch_size = 16, width = 32."
    caption(canvas, sentence)
    lines = canvas.get_supxlabel().split("\n")
    caption(canvas, *lines, "One seed.")
    assert canvas.get_supxlabel().replace("\n", " ") == f"{sentence} One seed."
    assert any("mini_batch_size = 16" in line for line in lines)
    assert any("width = 32" in line for line in lines)
