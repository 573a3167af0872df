import numpy as np
import pytest
from matplotlib.figure import Figure

from ttt.analysis.labels import FINETUNED
from ttt.plots.panels import plain_log_ticks
from ttt.plots.smoothing import window_means
from ttt.plots.style import LATER, PAPER, legend_order, line_style


def test_methods_of_the_paper_differ_without_colour() -> None:
    without_colour = {(style.dashes, style.marker, style.filled) for style in PAPER.values()}
    assert len(without_colour) == len({style.colour for style in PAPER.values()}) == len(PAPER)


def test_later_methods_differ_from_all_others() -> None:
    styles = [*PAPER.values(), *LATER.values()]
    assert len({style.colour for style in styles}) == len({style.label for style in styles}) == len(styles)
    for style in LATER.values():
        assert [other for other in styles if (other.dashes, other.marker) == (style.dashes, style.marker)] == [style]
    assert [line_style("mamba2", "own").label, line_style("gated_deltanet", "transformer").label] == [
        "Mamba-2",
        "Gated DeltaNet",
    ]


def test_the_backbone_is_shown_where_a_layer_can_sit_in_several() -> None:
    assert line_style("ttt_linear", "transformer").label == "TTT-Linear (T)"
    assert line_style("linear_attention", "transformer").label == "Linear attention (T)"
    assert line_style("mamba", "own").label == "Mamba"
    assert line_style("rwkv", "mamba").label == "rwkv (M)"


def test_other_methods_keep_their_style_and_changed_settings_differ() -> None:
    assert line_style("rwkv", "mamba") == line_style("rwkv", "mamba")
    assert line_style("ttt_mlp", "mamba", "", "model.mini_batch_size=4").label == "TTT-MLP (M), model.mini_batch_size=4"
    four, sixteen = (line_style("ttt_mlp", "mamba", "", f"model.mini_batch_size={b}") for b in (4, 16))
    assert four != sixteen


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
    assert line_style("transformer", "transformer", FINETUNED).label == "TF finetune"
    assert line_style("ttt_linear", "mamba", FINETUNED).label == "TTT-Linear (M), finetuned"
