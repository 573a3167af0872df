"""Random inner loops in float64 and all their results, to compare kernels."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttt.inner.eta import token_scale
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.scan import InnerKernel

B, H, D = 2, 2, 4


@dataclass
class Case:
    """An inner loop with random inputs, which are leaves for autograd; every token has its own eta."""

    spec: InnerSpec
    b: int
    T: int = 19
    forgets: bool = False
    D: int = D
    B: int = B
    leaves: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        B, D, T = self.B, self.D, self.T
        leaves = {name: normal(B, H, T, D) for name in ("q", "k", "v")}
        leaves["eta"] = torch.rand(B, H, T, generator=generator, dtype=torch.float64) / D
        if self.forgets:
            leaves["log_decay"] = torch.nn.functional.logsigmoid(normal(B, H, T) + 2)
        leaves["delta"] = 0.3 * normal(self.b)
        leaves["scale"], leaves["shift"] = 1 + 0.1 * normal(H, 1, D), 0.1 * normal(H, 1, D)
        for name, shape in self.spec.model.shapes(D).items():
            leaves[name] = 0.5 * normal(H, *shape)
        self.leaves = {name: value.requires_grad_() for name, value in leaves.items()}

    @property
    def W_init(self) -> tuple[Tensor, ...]:  # noqa: N802 - the paper's name
        return tuple(self.leaves[name] for name in self.spec.model.shapes(self.D))

    @property
    def inputs(self) -> InnerInputs:
        return InnerInputs(*(self.leaves[name] for name in ("q", "k", "v", "eta")), self.leaves.get("log_decay"))

    @property
    def loop(self) -> InnerLoop:
        norm = LayerNormParams(self.leaves["scale"], self.leaves["shift"])
        return InnerLoop(self.spec, norm, token_scale(self.leaves["delta"]))

    def outputs(self, kernel: InnerKernel, cuts: list[int] | None = None) -> dict[str, Tensor]:
        """Compute z and the final state with a sequence kernel, in chunks of ``cuts`` tokens."""
        loop, state, outputs = self.loop, self.spec.start(self.W_init, self.B), []
        for chunk in self.inputs.split(cuts or [self.T]):
            z, state = kernel(loop, state, chunk)
            outputs.append(z)
        final = {f"state {number}": tensor for number, tensor in enumerate(state.tensors)}
        return {"z": torch.cat(outputs, dim=2)} | final

    def run(self, kernel: InnerKernel, cuts: list[int] | None = None) -> dict[str, Tensor]:
        """Compute outputs, final state, and the gradient of a random functional of both for every leaf."""
        results = self.outputs(kernel, cuts)
        generator = torch.Generator().manual_seed(1)
        functional = sum((torch.randn(r.shape, generator=generator, dtype=r.dtype) * r).sum() for r in results.values())
        # Without LN, scale and shift have no gradient.
        gradients = torch.autograd.grad(
            functional, list(self.leaves.values()), materialize_grads=True, allow_unused=True
        )  # type: ignore[arg-type]
        return results | {f"gradient of {name}": g for name, g in zip(self.leaves, gradients, strict=True)}


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        error = (actual[name] - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert error < tolerance, f"{name}: relative error {error:.1e}"
