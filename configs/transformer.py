from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "transformer"
    config.train.steps = 10_000
    return config
