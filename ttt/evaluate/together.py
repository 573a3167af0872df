"""Continuations of several prompts at once.

A recurrent state cannot skip padding. So all sequences have read the same number of tokens at every step: each reads
its prompt as long as it lasts, then the tokens that are chosen for it.

Shapes: B sequences that are not finished, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from ttt.config.errors import DivergedError
from ttt.evaluate.generate import Sampling, choose, read_start
from ttt.layers.diagnose import with_diagnosis
from ttt.layers.state import rows_of
from ttt.models.language_model import LanguageModel


@torch.no_grad()
def continue_together(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    accept: Sequence[Callable[[int], bool]],
    device_tokens: int,
) -> None:
    """Continue prompts until each is finished; prompts of similar length take the fewest steps.

    Args:
        model: the model.
        prompts: token ids, at least one each.
        samplings: the choice of each prompt's next tokens.
        accept: of each prompt, called with its next token; returns whether to go on.
        device_tokens: tokens to read at once.

    Raises:
        DivergedError: the logits are not finite.
    """
    model.eval()
    texts, rows, read = [list(prompt) for prompt in prompts], list(range(len(prompts))), min(map(len, prompts))
    generators = [torch.Generator().manual_seed(sampling.seed) for sampling in samplings]
    ids_BT = torch.tensor([text[:read] for text in texts], device=model.embedding.weight.device)
    logits_BV, state = read_start(model, ids_BT, max(1, device_tokens // len(rows)))
    while True:
        if not logits_BV.isfinite().all():
            place = int((~logits_BV.isfinite().all(-1)).nonzero()[0])
            ids_BT = ids_BT.new_tensor([texts[rows[place]][:read]])
            raise DivergedError(with_diagnosis("the logits are not finite", model, ids_BT))
        likeliest, kept = logits_BV.argmax(-1).tolist(), []
        for place, row in enumerate(rows):
            if read == len(texts[row]):
                sampled = samplings[row].temperature > 0
                token = choose(logits_BV[place], samplings[row], generators[row]) if sampled else likeliest[place]
                if not accept[row](token):
                    continue
                texts[row].append(token)
            kept.append(place)
        if not kept:
            return
        if len(kept) < len(rows):
            rows, state = [rows[place] for place in kept], rows_of(state, ids_BT.new_tensor(kept))
        logits_BTV, state = model(ids_BT.new_tensor([[texts[row][read]] for row in rows]), state)
        logits_BV, read = logits_BTV[:, -1], read + 1
