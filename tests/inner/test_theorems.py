"""The paper's theorems: inner loops that equal attention or the delta rule. No LN, residual, bias, tau or 1 / D.

Shapes: B batch, H heads, T tokens, D head width.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttt.inner.dual import dual_mini_batch
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import InnerKernel, scan

B, H, T, D = 2, 3, 70, 8
PLAIN = InnerSpec(InnerMLP(bias=False), layer_norm=False, residual=False, halved_loss=False)
UNUSED = LayerNormParams(torch.ones(H, 1, D), torch.zeros(H, 1, D))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = (normal(B, H, T, D, seed=seed) for seed in (1, 2, 3))


def z_of(kernel: InnerKernel, spec: InnerSpec, eta: Tensor, b: int) -> Tensor:
    start = spec.start((torch.zeros(H, D, D, dtype=torch.float64),), B)
    loop = InnerLoop(spec, UNUSED, torch.ones(b, dtype=torch.float64))
    return scan(kernel, loop, start, InnerInputs(Q, K, V, eta))[0]


@pytest.mark.parametrize("kernel", [primal_mini_batch, dual_mini_batch])
def test_theorem_1_batch_gradient_descent_is_linear_attention(kernel: InnerKernel) -> None:
    """Check f_res linear, b = T, eta = 1/2, W_0 = 0: z_t = sum_{s <= t} v_s (k_s . q_t)."""
    z = z_of(kernel, PLAIN, torch.full((B, H, T), 0.5, dtype=torch.float64), b=T)
    expected = (Q @ K.mT).tril() @ V
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)


def nadaraya_watson(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute f(q; x_1 ... x_t) = sum_s kappa(k_s, q) v_s / sum_s kappa(k_s, q) with kappa(k, q) = exp(k . q).

    Training stores (k_s, v_s), and prediction averages over the stored pairs.
    """
    outputs = []
    for t in range(q.shape[2]):
        kernel = (k[:, :, : t + 1] * q[:, :, t : t + 1]).sum(-1, keepdim=True).exp()
        outputs.append((kernel * v[:, :, : t + 1]).sum(2) / kernel.sum(2))
    return torch.stack(outputs, dim=2)


def test_theorem_2_the_nadaraya_watson_learner_is_softmax_attention() -> None:
    z = nadaraya_watson(Q, K, V)
    expected = F.scaled_dot_product_attention(Q, K, V, is_causal=True, scale=1.0)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [primal_mini_batch, dual_mini_batch])
def test_online_gradient_descent_is_the_delta_rule(kernel: InnerKernel) -> None:
    """Check DeltaNet: S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, with beta the eta of the halved loss."""
    beta = torch.sigmoid(normal(B, H, T, seed=4)) / D
    halved = InnerSpec(InnerMLP(bias=False), layer_norm=False, residual=False)
    S = torch.zeros(B, H, D, D, dtype=torch.float64)
    expected = []
    for t in range(T):
        k, v = K[:, :, t, :, None], V[:, :, t, None]
        S = S + beta[:, :, t, None, None] * k @ (v - k.mT @ S)
        expected.append(Q[:, :, t, None] @ S)
    torch.testing.assert_close(z_of(kernel, halved, beta, b=1), torch.cat(expected, dim=2), rtol=1e-10, atol=1e-10)


def test_theorem_1_needs_the_unhalved_loss() -> None:
    halved = InnerSpec(InnerMLP(bias=False), layer_norm=False, residual=False)
    z = z_of(dual_mini_batch, halved, torch.full((B, H, T), 0.5, dtype=torch.float64), b=T)
    torch.testing.assert_close(2 * z, (Q @ K.mT).tril() @ V, rtol=1e-10, atol=1e-10)
