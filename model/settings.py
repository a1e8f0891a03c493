"""What a user may set: of a run, a fusion, a simulated cohort."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Settings of known names, which cannot be changed."""

    # TOML knows inf and nan, and no setting means anything there.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _are_known(cls, content: Any) -> Any:
        """Name what there is, which pydantic does not."""
        for name in content if isinstance(content, Mapping) else ():
            if name not in cls.model_fields:
                raise ValueError(f"expected one of {', '.join(cls.model_fields)}, found {name!r}")
        return content
