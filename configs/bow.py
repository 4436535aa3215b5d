from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "bow"
    return config
