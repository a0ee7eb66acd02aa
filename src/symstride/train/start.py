"""A model to begin with: its weights go on."""

from symstride.data.config import differences
from symstride.errors import ConfigError
from symstride.model import Model, load_model
from symstride.train.config import TrainConfig


def load_start(config: TrainConfig) -> Model | None:
    """The model whose weights, scales, elements and bonds a training goes on with; None if it has none.

    Raises ConfigError where its map is not the one to be trained.
    """
    if config.start is None:
        return None
    model = load_model(config.start)
    wanted = config.map if model.bonded else config.map.without_bonds()
    for key, was, now in differences(model.config.model_dump(), wanted.model_dump()):
        raise ConfigError(
            f"start: {config.start} is of a map with {key} = {was}, the configuration now says {now}; "
            "a training goes on with the same map"
        )
    return model
