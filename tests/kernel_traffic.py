"""Counts of the loads, stores and products of interpreted kernels, by tensor."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from triton.runtime import interpreter

from ttt.kernels.triton.configurations import Configuration


@dataclass
class Seen:
    """Counts of one kernel, over all launches.

    Attributes:
        flops: FLOPs of ``tl.dot``.
        loaded: bytes of all loads, by argument.
        stored: bytes of all stores, by argument.
        read: bytes at different addresses that were loaded, by argument, added over launches.
        written: bytes at different addresses that were stored, by argument, added over launches.
    """

    flops: int = 0
    loaded: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stored: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    read: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    written: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def moved(self) -> int:
        """Return the bytes of all loads and stores."""
        return sum(self.loaded.values()) + sum(self.stored.values())

    def crossed(self, scratch: set[str]) -> int:
        """Return the bytes at different addresses that were loaded or stored, except in ``scratch``."""
        touched = [*self.read.items(), *self.written.items()]
        return sum(size for name, size in touched if name not in scratch)


@contextmanager
def watched(patch: pytest.MonkeyPatch) -> Iterator[dict[str, Seen]]:
    """Count the work of the kernels that are launched within, by name."""
    seen: dict[str, Seen] = defaultdict(Seen)
    launch, builder = Configuration.launch, interpreter.InterpreterBuilder
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot
    current: list[Launch] = []

    def launched(self: Configuration, programs: int, **arguments: Any) -> None:
        current.append(Launch(seen[self.kernel], arguments))
        launch(self, programs, **arguments)
        current.pop().finish()

    def loading(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
        current[-1].note(pointers, mask, loads=True)
        return load(self, pointers, mask, *others)

    def storing(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        current[-1].note(pointers, mask, loads=False)
        return store(self, pointers, value, mask, *others)

    def multiplying(self: Any, a: Any, b: Any, *others: Any) -> Any:
        current[-1].seen.flops += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
        return dot(self, a, b, *others)

    patch.setattr(Configuration, "launch", launched)
    patch.setattr(builder, "create_masked_load", loading)
    patch.setattr(builder, "create_masked_store", storing)
    patch.setattr(builder, "create_dot", multiplying)
    yield seen


class Launch:
    """One launch: the tensor that each address belongs to, and the addresses that were used."""

    def __init__(self, seen: Seen, arguments: dict[str, Any]) -> None:
        self.seen = seen
        # z is also the placeholder for pointers that a kernel does not use; its addresses must count as z.
        named = sorted(arguments.items(), key=lambda item: item[0] != "z")
        tensors = {name: x for name, x in named if isinstance(x, Tensor)}
        self.starts = {name: (x.data_ptr(), x.data_ptr() + x.nbytes) for name, x in tensors.items()}
        self.touched: dict[tuple[str, bool], list[np.ndarray]] = defaultdict(list)
        self.element = {name: x.element_size() for name, x in tensors.items()}

    def note(self, pointers: Any, mask: Any, loads: bool) -> None:
        """Count the bytes at ``pointers`` where ``mask`` is true."""
        # The interpreter stores the result of ``tile & scalar`` as integers.
        places = pointers.data[np.broadcast_to(mask.data.astype(bool), pointers.data.shape)].ravel()
        if not places.size:
            return
        name = next(name for name, (start, end) in self.starts.items() if start <= int(places[0]) < end)
        count = places.size * self.element[name]
        (self.seen.loaded if loads else self.seen.stored)[name] += count
        self.touched[name, loads].append(np.unique(places))

    def finish(self) -> None:
        """Add the bytes at different addresses."""
        for (name, loads), places in self.touched.items():
            unique = np.unique(np.concatenate(places)).size * self.element[name]
            (self.seen.read if loads else self.seen.written)[name] += unique
