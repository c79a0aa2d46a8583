"""Parameters of the plugin's steps; importing this module loads neither torch nor AIMET."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SeqMseParams(BaseModel):
    """Parameters of seq_mse; the defaults are AIMET's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_candidates: int = Field(default=20, ge=2, description="ranges that are tried for each layer")
    num_batches: int | None = Field(default=None, ge=1, description="calibration batches to use; null is all")


class ReestimateBnParams(BaseModel):
    """Parameters of reestimate_bn; the default is AIMET's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_batches: int = Field(default=100, ge=1, description="calibration batches to use, or all where there are fewer")
