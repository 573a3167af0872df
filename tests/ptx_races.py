"""A static check of compiled kernels: accesses of one buffer by different threads that no barrier separates.

It reads PTX. Every load and store of global memory is traced to the arguments that its address may come from, by
following 64-bit registers. Two accesses of one argument, one of them a store, are a pair if some path of the control
flow graph leads from the first to the second without crossing a barrier. A pair is not yet a race: the addresses may
differ, or each thread may access only its own. So a test lists the pairs that are known, with the reason.

It does not see shared memory, accesses of two programs, or two stores.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

PREDICATE = r"(?:@!?%p\d+\s+)?"
FILE = re.compile(r'\.file\s+(\d+)\s+"(?:[^"]*/)?([^"/]+)"')
PLACE = re.compile(r"\.loc\s+(\d+)\s+(\d+)")
LABEL = re.compile(r"(\$\w+):")
PARAMETER = re.compile(PREDICATE + r"ld\.param\.[bu]64\s+(%rd\d+),\s*\[\w+_param_(\d+)\]")
ACCESS = re.compile(PREDICATE + r"(ld|st|atom|red)\.(?:\w+\.)*?global.*?\[\s*(%rd\d+)\s*(?:\+\s*(-?\d+))?\s*\]")
MEMORY = re.compile(PREDICATE + r"(?:ld|st|atom|red)\.")
BRANCH = re.compile(rf"({PREDICATE})bra(?:\.uni)?\s+(\$\w+)")
BARRIER = re.compile(r"\bbar(?:rier\.cta|rier)?\.sync\b")
END = re.compile(PREDICATE + r"(?:ret|exit)\b")
ADDRESS_REGISTER = re.compile(r"%rd\d+")


class Access(NamedTuple):
    """Index of the instruction, whether it is a load, address as register and offset, and source file and line."""

    index: int
    loads: bool
    address: tuple[str, str]
    place: tuple[str, int]


class Pair(NamedTuple):
    """Two accesses of an argument: its number among the pointers and numbers, and the source lines of both."""

    argument: int
    first: tuple[str, int]
    second: tuple[str, int]
    first_loads: bool


@dataclass
class Code:
    """Instructions with their source places, and label -> index of the next instruction."""

    instructions: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(ptx: str) -> Code:
    """Return the code of the only kernel."""
    files, code, place = dict(FILE.findall(ptx)), Code(), ("", 0)
    body = ptx[ptx.index(".entry") :]
    for line in body[body.index("\n{") + 2 :].splitlines():
        text = line.split("//")[0].strip().strip("{}").strip()
        if found := PLACE.match(text):
            place = (files.get(found[1], found[1]), int(found[2]))
            continue
        if found := LABEL.match(text):
            code.labels[found[1]] = len(code.instructions)
            text = text[found.end() :].strip()
        for instruction in filter(None, (part.strip(" \t{}") for part in text.split(";"))):
            if not instruction.startswith("."):
                code.instructions.append(instruction)
                code.places.append(place)
    return code


def pairs(ptx: str) -> set[Pair]:
    """Return the pairs whose address registers differ.

    Two accesses through one register and offset are left out: each thread reads what it wrote itself, unless several
    threads have the same address, which this check does not see.
    """
    code = parse(ptx)
    accesses = _accesses(code)
    found = set()
    for argument, several in accesses.items():
        for first in several:
            reached = _reached(code, first.index)
            found |= {
                Pair(argument, first.place, second.place, first.loads)
                for second in several
                if second.index in reached and first.loads != second.loads and first.address != second.address
            }
    return found


def without_barriers(ptx: str) -> str:
    """Return the code without its barriers, to see that the check misses them."""
    return "\n".join(line for line in ptx.splitlines() if not BARRIER.search(line))


def _accesses(code: Code) -> dict[int, list[Access]]:
    """Return the accesses of global memory by the number of the argument that their address may come from."""
    arguments, found = _origins(code), defaultdict(list)
    for index, text in enumerate(code.instructions):
        if access := ACCESS.match(text):
            kind, register, offset = access.groups()
            for argument in arguments[register]:
                place = code.places[index]
                found[argument].append(Access(index, kind == "ld", (register, offset or "0"), place))
    return found


def _origins(code: Code) -> dict[str, set[int]]:
    """Return the arguments from which the address in each 64-bit register may be computed."""
    origins, moves = defaultdict(set), []
    for text in code.instructions:
        if parameter := PARAMETER.match(text):
            origins[parameter[1]].add(int(parameter[2]))
        elif not MEMORY.match(text):
            target, *sources = ADDRESS_REGISTER.findall(text) or [""]
            moves += [(target, source) for source in sources]
    changed = True
    while changed:
        changed = False
        for target, source in moves:
            if not origins[source] <= origins[target]:
                origins[target] |= origins[source]
                changed = True
    return origins


def _next(code: Code, index: int) -> Iterator[int]:
    """Yield the instructions that may follow."""
    text = code.instructions[index]
    branch = BRANCH.match(text)
    if branch:
        yield code.labels[branch[2]]
    ends = END.match(text) is not None and not text.startswith("@")
    if not ends and (branch is None or branch[1]):
        yield index + 1


def _reached(code: Code, index: int) -> set[int]:
    """Return the instructions that some path reaches without a barrier."""
    seen, waiting = set(), deque(_next(code, index))
    while waiting:
        at = waiting.popleft()
        if at in seen or at >= len(code.instructions) or BARRIER.search(code.instructions[at]):
            continue
        seen.add(at)
        waiting.extend(_next(code, at))
    return seen
