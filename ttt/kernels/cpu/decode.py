"""The compiled steps of decoding one token of one sequence, in tensors that every token overwrites.

A model adds its steps once, in their order. For each token C++ runs all of them in one call, because in a small model
the starts of a thousand operators take longer than their work.

Shapes: C channels, E inner channels, K taps, N state size, H heads, D head width, b mini-batch size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from ttt.kernels.adapter import with_biases
from ttt.kernels.cpu.build import load

Params = tuple[Tensor, ...]


class NoTokenStepsError(Exception):
    """A module has no compiled steps; the message is the reason."""


class TokenSteps:
    """The steps so far. Each method adds one, and returns the tensor that will have its result.

    All tensors are on the CPU, contiguous, and of one dtype, float32 or float64. They are read when the steps run;
    those of a state are overwritten. Nothing has derivatives. Equal inputs give equal bytes for any number of threads.

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: by each method: sizes that are inconsistent, or other tensors.
    """

    def __init__(self) -> None:
        load()
        self._steps: Any = torch.classes.ttt_cpu.TokenSteps()

    def run(self) -> None:
        """Compute one token."""
        self._steps.run()

    def settle(self) -> None:
        """Bring the sums of the inner loops up to date; see ``inner``."""
        self._steps.settle()

    def join(self, more: "TokenSteps") -> None:
        """Add all steps of ``more``."""
        self._steps.join(more._steps)

    def embed(self, ids_1: Tensor, weight_VC: Tensor) -> Tensor:
        """Return the row [C] of ``weight_VC`` of a token's id."""
        h_C = weight_VC.new_empty(weight_VC.shape[1])
        self._steps.embed(ids_1, weight_VC.detach(), h_C)
        return h_C

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``weight @ x``: [inputs] -> [outputs]."""
        y = x.new_empty(weight.shape[0])
        self._steps.linear(x.flatten(), weight.detach(), y)
        return y

    def add_to(self, x_C: Tensor, y_C: Tensor) -> None:
        """Add ``x_C`` to ``y_C``."""
        self._steps.add_to(x_C, y_C)

    def rms_norm(self, x_C: Tensor, norm: torch.nn.RMSNorm) -> Tensor:
        """Return the RMSNorm of ``x_C`` [C]."""
        if norm.eps is None:
            raise NoTokenStepsError("a norm without epsilon")
        y_C = torch.empty_like(x_C)
        self._steps.rms_norm(x_C, norm.weight.detach(), norm.eps, y_C)
        return y_C

    def layer_norm(self, x_C: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
        """Return the LayerNorm of ``x_C`` [C]."""
        y_C = torch.empty_like(x_C)
        self._steps.layer_norm(x_C, norm.weight.detach(), norm.bias.detach(), norm.eps, y_C)
        return y_C

    def gate(self, gate_C: Tensor, y_C: Tensor, activation: str) -> None:
        """Multiply ``y_C`` by the activation of ``gate_C``: ``silu``, or ``gelu`` in its tanh form."""
        self._steps.gate(gate_C, {"silu": False, "gelu": True}[activation], y_C)

    def silu(self, x_C: Tensor) -> None:
        """Overwrite ``x_C`` with SiLU(x)."""
        self._steps.silu(x_C)

    def rate(self, x_H: Tensor, bias_H: Tensor, factor: float) -> None:
        """Overwrite ``x_H`` with factor * sigmoid(x + bias)."""
        self._steps.rate(bias_H.detach(), factor, x_H)

    def convolve(self, x_C: Tensor, weight_CK: Tensor, bias_C: Tensor | None, inputs_1KC: Tensor) -> Tensor:
        """Return the causal convolution [C] of ``x_C`` and the last K - 1 ``inputs_1KC``, a state."""
        y_C = torch.empty_like(x_C)
        self._steps.convolve(x_C, weight_CK.detach(), [] if bias_C is None else [bias_C.detach()], inputs_1KC, y_C)
        return y_C

    def rotate(self, x_HD: Tensor, turns: Tensor, place: Tensor) -> None:
        """Apply RoPE to ``x_HD``: rotate its pairs by row ``place`` modulo the period of ``turns`` [period, D / 2]."""
        self._steps.rotate(x_HD, torch.view_as_real(turns).contiguous(), place)

    def inner(
        self,
        W: Params,
        sums: Params,
        scale: Tensor,
        shift: Tensor,
        views: tuple[Tensor, Tensor, Tensor],
        eta: Tensor,
        tau: Tensor,
        place: Tensor,
    ) -> Tensor:
        """Return z [H, D] of the inner loop, halved loss, and overwrite its state.

        Args:
            W: state at the start of the mini-batch, as of ``ttt.kernels.cpu.op.inner_loop`` with B = 1.
            sums: of eta_j grad loss_j(W) over the mini-batch's earlier tokens, shaped as W; not read if there are none.
                Steps keep what later tokens add to it as factors of these matrices, up to the mini-batch's end, where W
                is written; ``settle`` adds them.
            scale: of the inner model's LN, [H, 1, D].
            shift: of the inner model's LN, [H, 1, D].
            views: q, k and v, each [H, D].
            eta: inner learning rate [H].
            tau: token scale [b].
            place: number of tokens since a mini-batch began, a scalar, int32; 1 is added.
        """
        z_HD, bias = torch.empty_like(views[0]), with_biases(W)[1]
        self._steps.inner(list(W), list(sums), bias, scale, shift, list(views), eta, tau, place, z_HD)
        return z_HD

    def scan(
        self,
        u_E: Tensor,
        dt_E: Tensor,
        bias_E: Tensor,
        A_EN: Tensor,
        B_N: Tensor,
        C_N: Tensor,
        D_E: Tensor,
        gate_E: Tensor,
        h_1EN: Tensor,
    ) -> Tensor:
        """Return (C h + D u) silu(gate) [E] after h = exp(delta A) h + delta u B, with delta = softplus(dt + bias)."""
        y_E = torch.empty_like(u_E)
        self._steps.scan([u_E, dt_E, bias_E.detach(), A_EN, B_N, C_N, D_E.detach(), gate_E], h_1EN, y_E)
        return y_E
