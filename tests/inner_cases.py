"""Random inner loops in float64 and everything that they compute, for comparing kernels."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttt.inner.eta import token_scale
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, Tokens
from ttt.inner.scan import Form

B, H, D = 2, 2, 4


@dataclass
class Case:
    """One inner loop with random inputs, all of them leaves; every token has its own eta."""

    loop: InnerLoop
    b: int
    T: int = 19
    forgets: bool = False
    D: int = D
    inputs: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        D, T = self.D, self.T
        inputs = {name: normal(B, H, T, D) for name in ("q", "k", "v")}
        inputs["eta"] = torch.rand(B, H, T, generator=generator, dtype=torch.float64) / D
        if self.forgets:
            inputs["log_keep"] = torch.nn.functional.logsigmoid(normal(B, H, T) + 2)
        inputs["delta"] = 0.3 * normal(self.b)
        inputs["scale"], inputs["shift"] = 1 + 0.1 * normal(H, 1, D), 0.1 * normal(H, 1, D)
        for name, shape in self.loop.model.shapes(D).items():
            inputs[name] = 0.5 * normal(H, *shape)
        self.inputs = {name: value.requires_grad_() for name, value in inputs.items()}

    @property
    def W_init(self) -> tuple[Tensor, ...]:  # noqa: N802 - the paper's name
        return tuple(self.inputs[name] for name in self.loop.model.shapes(self.D))

    @property
    def tokens(self) -> Tokens:
        return Tokens(*(self.inputs[name] for name in ("q", "k", "v", "eta")), self.inputs.get("log_keep"))

    @property
    def norm(self) -> LayerNormParams:
        return LayerNormParams(self.inputs["scale"], self.inputs["shift"])

    @property
    def tau(self) -> Tensor:
        return token_scale(self.inputs["delta"])

    def outputs(self, form: Form, cuts: list[int] | None = None) -> dict[str, Tensor]:
        """Return Z and the final state that ``form`` computes for chunks of ``cuts`` tokens."""
        state, outputs = self.loop.start(self.W_init, B), []
        for piece in self.tokens.split(cuts or [self.T]):
            z, state = form(self.loop, self.norm, state, piece, self.tau)
            outputs.append(z)
        final = {f"state {number}": tensor for number, tensor in enumerate(state.tensors)}
        return {"z": torch.cat(outputs, dim=2)} | final

    def run(self, form: Form, cuts: list[int] | None = None) -> dict[str, Tensor]:
        """Return outputs, final state, and the gradient of a random functional of both for every input."""
        results = self.outputs(form, cuts)
        generator = torch.Generator().manual_seed(1)
        functional = sum((torch.randn(r.shape, generator=generator, dtype=r.dtype) * r).sum() for r in results.values())
        # Without LN its scale and shift are not used.
        gradients = torch.autograd.grad(
            functional, list(self.inputs.values()), materialize_grads=True, allow_unused=True
        )  # type: ignore[arg-type]
        return results | {f"gradient of {name}": g for name, g in zip(self.inputs, gradients, strict=True)}


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        error = (actual[name] - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert error < tolerance, f"{name}: relative error {error:.1e}"
