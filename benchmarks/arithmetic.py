"""The number of floating-point operations of a training step, by formula."""

from makemore_jax import models
from makemore_jax.assemble import create_model, load_data
from makemore_jax.config import Config
from makemore_jax.training.state import num_params


def flops_per_step(config: Config) -> int:
    """Return the floating-point operations of a training step.

    Each token costs 6 per parameter (Kaplan et al. 2020, section 2.1), and for attention 12 per
    layer, channel and position of the context. A token of a mixture trains one of its networks.
    """
    dataset = load_data(config.data, config.seed)
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    tokens = 1 if config.data.kind == "windows" else dataset.block_size
    per_token = 6 * num_params(models.variable_shapes(model, dataset.block_size)["params"])
    per_token //= config.model.networks
    if config.model.kind in ("transformer", "modern", "mixture"):
        per_token += 12 * config.model.n_layer * config.model.n_embd * dataset.block_size
    return per_token * tokens * config.train.batch_size
