"""What `symstride extend` reads."""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from symstride.data.config import Config, ReferenceConfig
from symstride.simulate.settings import RunSettings
from symstride.train.config import Schedule


class Retraining(Schedule):
    """A schedule that goes on from trained weights: shorter and softer, and no forces first."""

    force_steps: int = Field(default=0, ge=0, description="steps on reference forces alone")
    steps: PositiveInt = Field(default=500, description="steps on strides")
    rate: PositiveFloat = 0.002
    validate_every: PositiveInt = 100


class ExtendConfig(Config):
    """A model, the run that it is to be good for, and how its true trajectories are made."""

    model: Path = Field(description="a trained model, .safetensors")
    data: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="what it was trained on, if that is not where its recipe says"
    )
    structure: Path = Field(description="where the run begins, as for `symstride run`")
    run: RunSettings = Field(description="`length_ps`, `temperature_K` … as the options of `symstride run`")
    sample: ReferenceConfig = Field(
        description="`calculator`, `timestep_fs`, `length_ps` of new trajectories"
    )
    frames: int = Field(default=8, ge=2, description="new trajectories a round, at most")
    schedule: Retraining = Retraining()
    rounds: PositiveInt = Field(default=5, description="trainings, at most")
    output: Path = Field(description="a directory")
