"""What all sections of the settings are: frozen, strict, unknown keys refused; and lists that become tuples."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Names", "Section", "as_tuple"]


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_tuple(value: object) -> object:
    """Return a list as a tuple, as frozen settings hold it, and anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
