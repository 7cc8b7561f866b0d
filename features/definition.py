"""How a feature is written down: a named function over arrays, whose parameters are its inputs.

An input is a block of an entity's state (`customer_amount_n`: shape (n, lives)), or a field of the request
(`amount`: shape (n, 1)). A function that reads a block with several lives gives one feature a life, named
`{function}_{life}`. A request is a batch of one: there is no second, scalar version of any function.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.state import Decayed, Entity, Floats, read

type_of_function = Callable[..., Floats]

FORGOTTEN = 1e-100
"""A decayed count below this has faded away; near float64's least numbers a quotient would be noise."""


def ratio(total: Floats, n: Floats) -> Floats:
    """Mean of what `total` and `n` are the decayed sum and count of; NaN if nothing is remembered."""
    return np.where(n > FORGOTTEN, total / n, np.nan)


@dataclass(frozen=True)
class Family:
    """One function and the features it gives."""

    function: type_of_function
    inputs: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class FeatureSet:
    """Every feature of one domain, in the order of the model's matrix."""

    domain: str
    entities: tuple[Entity, ...]
    request: tuple[str, ...]
    """Names of the request's own columns that features may read."""
    families: tuple[Family, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names in matrix order."""
        return tuple(name for family in self.families for name in family.names)

    @cached_property
    def hash(self) -> str:
        """Changes when a name, a function's source or a state's columns change; 12 hex digits."""
        sources = [inspect.getsource(family.function) for family in self.families]
        parts = [*self.names, *sources, *(repr(entity) for entity in self.entities)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def matrix(self, states: Mapping[str, Floats], request: Mapping[str, Floats], at_s: Floats) -> Floats:
        """Features of n requests, shape (n, features); NaN where a feature is not known.

        Args:
            states: each entity's states before its request, shape (n, columns), by entity name.
            request: each request column, shape (n,).
            at_s: time of each request, seconds since 1970 UTC.
        """
        inputs = {name: request[name][:, None] for name in self.request} | {"at_s": at_s[:, None]}
        for entity in self.entities:
            snapshot = read(entity, states[entity.name], at_s)
            inputs |= {f"{entity.name}_{block}": snapshot.block(block) for block in entity.blocks}
        matrix = np.empty((len(at_s), len(self.names)))
        self._fill(matrix, inputs)
        return matrix

    def _fill(self, matrix: Floats, inputs: Mapping[str, Floats]) -> None:
        column = 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for family in self.families:
                width = len(family.names)
                matrix[:, column : column + width] = family.function(
                    *[inputs[name] for name in family.inputs]
                )
                column += width


def feature_set(
    domain: str, entities: Sequence[Entity], request: Sequence[str], functions: Sequence[type_of_function]
) -> FeatureSet:
    """Build the set from its functions; an unknown parameter name is an error that lists the known ones."""
    lives = _lives_of_inputs(entities, request)
    families = tuple(_family(function, lives) for function in functions)
    return FeatureSet(domain, tuple(entities), tuple(request), families)


def _lives_of_inputs(entities: Sequence[Entity], request: Sequence[str]) -> dict[str, tuple[str, ...]]:
    lives: dict[str, tuple[str, ...]] = dict.fromkeys((*request, "at_s"), ())
    for entity in entities:
        lives[f"{entity.name}_seen_at"] = ()
        for aggregate in entity.aggregates:
            each = aggregate.lives if isinstance(aggregate, Decayed) else ()
            lives |= {f"{entity.name}_{block}": each for block in aggregate.blocks}
    return lives


def _family(function: type_of_function, lives: Mapping[str, tuple[str, ...]]) -> Family:
    inputs = tuple(inspect.signature(function).parameters)
    unknown = [name for name in inputs if name not in lives]
    if unknown:
        raise ValueError(f"feature {function.__name__} reads {unknown}; known inputs are {sorted(lives)}")
    widest = max((lives[name] for name in inputs), key=len)
    names = tuple(f"{function.__name__}_{life}" for life in widest) or (function.__name__,)
    return Family(function, inputs, names)
