"""Decoding on a CPU: the compiled steps of one token after another, with the state overwritten.

Shapes: B = 1 sequence, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ttt.backbones.modules import token_steps
from ttt.config.errors import UserError
from ttt.kernels.cpu.decode import NoTokenStepsError, TokenSteps
from ttt.layers.inner_state import in_place
from ttt.layers.state import State, named, part
from ttt.models.language_model import LanguageModel


class CompiledDecoder:
    """Reads one token of one sequence at a time: ``logits_BV = decoder(ids_B1)``.

    The steps of neighbouring blocks run in one call; a block without compiled steps, such as attention's, is called as
    in ``LanguageModel``. The weights must not change in the meantime.

    """

    def __init__(self, model: LanguageModel, state: State) -> None:
        """Start after the tokens of ``state``, which stays as it is.

        Raises:
            CompilerError: the kernel cannot be compiled on this machine.
        """
        self._ids, self._steps = torch.zeros(1, dtype=torch.int64), TokenSteps()
        self._programs = [self._steps]
        self._parts: list[Callable[[], None]] = [self._steps.run]
        self._states: list[State] = []
        self._called: set[int] = set()
        self._h_C = self._steps.embed(self._ids, model.embedding.weight)
        for number, block in enumerate(model.blocks):
            self._add(number, block, part(state, f"blocks.{number}"))
        h_C = self._steps.rms_norm(self._h_C, model.norm)
        self._logits_V = self._steps.linear(h_C, model.embedding.weight)

    @property
    def compiled(self) -> int:
        """The number of blocks with compiled steps."""
        return len(self._states) - len(self._called)

    @property
    def state(self) -> State:
        """The state after the tokens so far: of blocks with compiled steps as of ``in_place``, overwritten."""
        self._settle()
        blocks = (named(f"blocks.{number}", state) for number, state in enumerate(self._states))
        return {name: x for block in blocks for name, x in block.items()}

    def restart(self, state: State) -> None:
        """Go on after the tokens of another ``state``, which stays as it is."""
        self._settle()
        for number, own in enumerate(self._states):
            given = part(state, f"blocks.{number}")
            if number in self._called:
                self._states[number] = given
                continue
            for name, x in in_place(given, self._h_C.dtype).items():
                own[name].copy_(x)

    @torch.no_grad()
    def __call__(self, ids_B1: Tensor) -> Tensor:
        """Return the logits [1, V] after one more token, in a tensor that the next call overwrites."""
        self._ids[0] = ids_B1[0, 0]
        for run in self._parts:
            run()
        return self._logits_V[None]

    def _settle(self) -> None:
        for steps in self._programs:
            steps.settle()

    def _add(self, number: int, block: nn.Module, state: State) -> None:
        """Add a block: its steps, or a call of it."""
        steps = TokenSteps()
        try:
            fixed = in_place(state, self._h_C.dtype)
            token_steps(block, steps, self._h_C, fixed)
        except (NoTokenStepsError, UserError):  # a UserError: momentum's velocity has no place in such a state
            self._states.append(state)
            self._called.add(number)
            self._steps = TokenSteps()
            self._programs.append(self._steps)
            self._parts += [lambda: self._call(number, block), self._steps.run]
            return
        self._states.append(fixed)
        self._steps.join(steps)

    def _call(self, number: int, block: nn.Module) -> None:
        h_11C, self._states[number] = block(self._h_C[None, None], self._states[number])
        self._h_C.copy_(h_11C[0, 0])
