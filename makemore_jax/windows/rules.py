"""The rules about the fields of windows and of the model that reads them."""

from collections.abc import Iterator

from makemore_jax.config import Config


def window_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield rules about several fields: name, whether it is met, what the field must be."""
    data, model, train = config.data, config.model, config.train
    if model.kind != "window_mlp":
        yield "data.kind", data.kind != "windows", f"lines or text, which {model.kind} reads"
        return
    yield "data.kind", data.kind == "windows", "windows, which window_mlp reads"
    if model.batch_norm == "none":
        yield "model.output_norm", not model.output_norm, "false without model.batch_norm"
    else:
        yield "train.accumulate", train.accumulate == 1, "1 for model.batch_norm"
        yield "train.batch_size", train.batch_size > 1, "above 1 for model.batch_norm"
    if model.fuse is not None and data.block_size is not None:
        reach = model.fuse**model.n_layer
        rule = f"{reach}, model.fuse to the power of model.n_layer"
        yield "data.block_size", data.block_size == reach, rule
