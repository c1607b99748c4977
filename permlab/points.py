"""The points of a sweep, composed: `permlab -m task=ntk seed=range(0,1000)` composes the groups once.

Hydra takes some 50 ms for one composition, nearly all of it for reading and merging groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Points:
    """Composed configurations of the points of a sweep.

    Where the points differ in plain values only (`seed=0,1`), the groups are composed once and the values set in that,
    which takes a tenth of the time; where they differ in options (`model=mlp,resnet`), each is composed.

    Args:
        parsed: every override of the command line, as Hydra's parser gives them.
        compose: overrides of a point -> what Hydra composes of them.
        known: overrides of a point -> what it composes to.
    """

    def __init__(
        self, parsed: list[Any], compose: Callable[[list[str]], Any], known: dict[tuple[str, ...], Any]
    ) -> None:
        self._parsed, self._compose, self._known = parsed, compose, known
        self._varied = [number for number, override in enumerate(parsed) if override.is_sweep_override()]
        self._keys = [override.key_or_group for override in parsed]
        self._values: dict[str, Any] = {}
        self._base: Any = None

    def composed(self, point: list[str]) -> Any:
        """Return the configuration of a point; the next call may overwrite it.

        Raises:
            UserError: it does not compose.
        """
        known = self._known.get(tuple(point))
        found = known if known is not None else self._with_values(point)
        if found is None:
            found = self._compose(point)
            self._base = found if all(self._is_plain(found, number) for number in self._varied) else None
        return found

    def _with_values(self, point: list[str]) -> Any:
        """Set the values of a point where the one before has its own; None where Hydra has to look at it."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        if self._base is None:
            return None
        try:
            for number in self._varied:
                value = self._value(point[number])
                if isinstance(value, dict):
                    return None  # a mapping is merged into what is there
                OmegaConf.update(self._base, self._keys[number], value)
        except OmegaConfBaseException:  # Hydra says what is wrong with it
            self._base = None
            return None
        return self._base

    def _value(self, text: str) -> Any:
        if text not in self._values:
            from hydra.core.override_parser.overrides_parser import OverridesParser

            self._values[text] = OverridesParser.create().parse_overrides([text])[0].value()
        return self._values[text]

    def _is_plain(self, composed: Any, number: int) -> bool:
        """Whether a varied key is a value that is there, and that no other override has to do with."""
        key = self._keys[number]
        if not self._is_value(composed, key) or key.startswith("hydra"):
            return False
        # An override of a mapping with a mapping touches what is below; with a name it chooses an option of a group.
        touching = [
            other.key_or_group
            for place, other in enumerate(self._parsed)
            if place != number and (isinstance(other.value(), dict) or self._is_value(composed, other.key_or_group))
        ]
        return not any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in touching)

    @staticmethod
    def _is_value(composed: Any, key: str) -> bool:
        """Whether a key is there and holds no mapping."""
        from omegaconf import OmegaConf

        parent, _, name = key.rpartition(".")
        inside = OmegaConf.select(composed, parent) if parent else composed
        return OmegaConf.is_dict(inside) and name in inside and not OmegaConf.is_dict(inside._get_node(name))
