"""Losses of a model's inner loops at every token: Figure 7 of the submission.

Shapes: B sequences at once, H heads, T context length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.progress import progress_bar
from ttt.config.text_table import text_table
from ttt.data.windows import Windows, windows_within
from ttt.evaluate.growth import unbounded_growth
from ttt.evaluate.run import TrainedRun
from ttt.layers.diagnose import with_diagnosis
from ttt.layers.observing import Observation, read_in_chunks, record_inner_loops, ttt_layers
from ttt.results.inner_loss import write_inner_loss
from ttt.results.metrics import Split


@dataclass(frozen=True)
class InnerLosses:
    """The inner losses of each TTT layer.

    Attributes:
        layers: TTT layers in order, [H, T] float64 on the CPU, averaged over sequences.
        sequences: number of sequences.
        lost: input ids [B, T] of the first batch with a number that is not finite; None: all numbers are finite.
    """

    layers: list[Observation]
    sequences: int
    lost: Tensor | None = None


@dataclass(frozen=True)
class Probe:
    """The result of ``probe_run``.

    Attributes:
        losses: of each TTT layer.
        warnings: subject -> text, for every inner loop that grows without bound.
        failure: the first inner loop with a number that is not finite, as a message; None: all numbers are finite.
    """

    losses: InnerLosses
    warnings: dict[str, str]
    failure: str | None


def probe_run(run: TrainedRun, split: Split) -> Probe:
    """Measure the inner losses of a run's model and write them into its ``inner_loss.parquet``.

    Warnings go into the run's record. See ``TrainedRun.stores_probe``. The windows are those of the perplexity;
    position t is the place in the window.

    Raises:
        UserError: there is no such split, or the model has no TTT layer.
    """
    folder, reading, ctx = run.record.folder, run.reading, run.reading.ctx
    if not ttt_layers(run.model):
        model = run.record.content["config"]["model"]["name"]
        raise bad_value("probe", "inner_loss", f"{folder.path} has no inner loop: its model is {model}")
    windows = windows_within(run.documents(split), ctx).subset(max(1, reading.eval_tokens // ctx))
    losses = measure_inner_losses(run.model, windows, reading.device, reading.device_tokens, reading.show_progress)
    layers = [{name: value.mean(0).numpy() for name, value in layer._asdict().items()} for layer in losses.layers]
    growths = unbounded_growth(losses.layers)
    warnings = {f"{split}, {growth.inner_loop}": f"at step {run.step} {growth}" for growth in growths}
    if run.stores_probe(split):
        write_inner_loss(folder.inner_loss, run.record.run_id, split, run.step, layers, losses.sequences)
        run.record.warn(warnings)
        run.record.write()
    failure = None if losses.lost is None else with_diagnosis("the inner losses are not finite", run.model, losses.lost)
    return Probe(losses, warnings, failure)


def measure_inner_losses(
    model: nn.Module, windows: Windows, device: torch.device, device_tokens: int, show_progress: bool
) -> InnerLosses:
    """Read ``windows`` token by token, in the primal form.

    Args:
        model: a language model with TTT layers, on ``device``.
        windows: the windows to read.
        device: where to compute.
        device_tokens: tokens on the device at once.
        show_progress: show a progress bar.
    """
    batch = max(1, device_tokens // windows.ctx)
    total, lost = torch.zeros(()), None
    model.eval()
    with progress_bar(total=len(windows), desc="inner loss", unit="sequence", leave=False, show=show_progress) as bar:
        for start in range(0, len(windows), batch):
            ids_BT = windows.batch(range(start, min(start + batch, len(windows))))[:, :-1].to(device)
            summed = observed(model, ids_BT)
            if lost is None and not summed.isfinite().all():
                lost = ids_BT
            total = total + summed
            bar.update(len(ids_BT))
    means = [Observation(*layer) for layer in total / len(windows)]
    return InnerLosses(means, len(windows), lost)


@torch.no_grad()
def observed(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Return every number of ``Observation`` for every TTT layer, summed over sequences: [layers, 5, H, T] float64."""
    chunks: list[Tensor] = []
    with record_inner_loops(model) as seen:
        for _ in read_in_chunks(model, ids_BT):
            chunks.append(torch.stack([torch.stack(layer).cpu().double().sum(1) for layer in seen]))
            seen.clear()
    return torch.cat(chunks, dim=-1)


def describe(losses: InnerLosses, factor: float) -> str:
    """Return a table of each layer's mean losses; gain: loss under W_0 minus loss under W_{t-1}, over a quarter.

    Args:
        losses: of the layers.
        factor: multiplies them; see ``ttt.results.inner_loss.per_dimension``.
    """
    T = losses.layers[0].loss_before.shape[-1]
    quarter = max(1, T // 4)
    rows = [["layer", "W_0", "W_{t-1}", "W_t", f"gain 1-{quarter}", f"gain {T - quarter + 1}-{T}"]]
    for number, layer in enumerate(losses.layers, 1):
        gain_T = (layer.loss_initial - layer.loss_before).mean(0)
        means = (layer.loss_initial, layer.loss_before, layer.loss_after, gain_T[:quarter], gain_T[-quarter:])
        rows.append([str(number), *(f"{factor * mean.mean():.4g}" for mean in means)])
    return text_table(rows)
