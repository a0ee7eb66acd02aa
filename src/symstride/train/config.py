"""What `symstride train` reads."""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from symstride.data.config import Config
from symstride.model import MapConfig


class Schedule(Config):
    """How long and how hard to train. First the short-stride limit on forces, then the strides themselves."""

    force_steps: int = Field(default=300, ge=0, description="steps on reference forces alone")
    force_rate: PositiveFloat = 0.01
    steps: PositiveInt = Field(default=2000, description="steps on strides")
    rate: PositiveFloat = 0.004
    processor_steps: PositiveInt = Field(
        default=300, description="then, if there is a processor: with it, on the longest stride alone"
    )
    processor_rate: PositiveFloat = Field(default=0.001, description="from 0.003 on, steps end in NaN")
    processed_steps: PositiveInt = Field(default=500, description="and with it on all strides")
    processed_rate: PositiveFloat = 0.001
    frames: PositiveInt = Field(default=8, description="pairs of frames a step")
    force_weight: float = Field(
        default=0.3, ge=0, description="of the force error's logarithm beside the strides'"
    )
    position_weight: PositiveFloat = Field(
        default=4.0, description="of the squared position error beside the momentum's"
    )
    validate_every: PositiveInt = 250
    validation_frames: PositiveInt = 96
    seed: int = Field(default=0, ge=0)


class TrainConfig(Config):
    """Data, map and schedule of one training."""

    data: tuple[str, ...] = Field(min_length=1, description="H5MD files, or patterns such as reference/*.h5")
    validation: float = Field(
        default=0.2, gt=0, lt=1, description="the part of the trajectories held out, whole"
    )
    held_out: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="files or patterns to hold out instead"
    )
    map: MapConfig = Field(description="`kind: explicit|s3|verlet` and `strides_fs`")
    start: Path | None = Field(
        default=None,
        description="a model to begin with, of the same map settings: its weights and scales go on",
    )
    schedule: Schedule = Schedule()
    output: Path = Field(description="the model, .safetensors")
