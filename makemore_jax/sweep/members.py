"""The runs of a group as arrays with a leading axis, sharded over the devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from makemore_jax.config import Config
from makemore_jax.data import Dataset, Split
from makemore_jax.errors import UserError
from makemore_jax.sweep.axes import VMAPPED_FIELDS, Values
from makemore_jax.text.dataset import Text
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState


class Members(NamedTuple):
    """The arrays of M runs. Each array has a leading axis of length M.

    M is a multiple of the number of devices: the first runs are repeated at the end.
    """

    state: TrainState
    values: dict[str, Array]  # (M,) float32 for each of VMAPPED_FIELDS that differs between runs
    train_split: Split
    dev_split: Split  # for evaluation
    key_data: Array  # of the training key


def make_mesh(num_members: int) -> Mesh:
    """Return a mesh with the axis `member`, over at most `num_members` devices."""
    devices = jax.devices()[:num_members]
    return jax.make_mesh((len(devices),), ("member",), (AxisType.Auto,), devices=devices)


def stack_members(
    config: Config,
    members: list[Values],
    model: nn.Module,
    datasets: dict[int, Dataset],
    mesh: Mesh,
) -> Members:
    """Create the state of each run and stack the arrays of all runs. `datasets` has all seeds."""
    # Arrays have their sharding from the start; otherwise the second training call would compile
    # again.
    sharding = NamedSharding(mesh, P("member"))
    num_padded = -(-len(members) // mesh.size) * mesh.size
    padded = [members[i % len(members)] for i in range(num_padded)]
    seeds = list(datasets)
    seed_index = np.array([seeds.index(values["seed"]) for values in padded])

    def stack(by_seed: dict[int, Any]) -> Any:
        return jax.tree.map(
            lambda *leaves: jax.device_put(jnp.stack(leaves)[seed_index], sharding),
            *(by_seed[seed] for seed in seeds),
        )

    # The same keys as in a single training run.
    init_keys, train_keys = {}, {}
    for seed in seeds:
        init_keys[seed], train_keys[seed], _ = jax.random.split(jax.random.key(seed), 3)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    states = {
        seed: state_lib.create(model, optimizer, init_keys[seed], dataset.block_size)
        for seed, dataset in datasets.items()
    }
    train = {seed: dataset.splits["train"] for seed, dataset in datasets.items()}
    dev = {seed: dataset.splits["dev"].for_evaluation() for seed, dataset in datasets.items()}
    return Members(
        state=stack(states),
        values={
            name: jax.device_put(np.array([run[name] for run in padded], np.float32), sharding)
            for name in members[0]
            if name in VMAPPED_FIELDS and len({values[name] for values in members}) > 1
        },
        train_split=stack(_with_equal_shapes(train)),
        dev_split=stack(_with_equal_shapes(dev)),
        key_data=stack({seed: jax.random.key_data(key) for seed, key in train_keys.items()}),
    )


def _with_equal_shapes(splits: dict[int, Split]) -> dict[int, Split]:
    """Return the splits of different seeds with their arrays padded to one shape."""
    if isinstance(next(iter(splits.values())), Text):
        return splits  # a text is split by position, so all seeds have the same split
    length = max(len(split.stream) for split in splits.values())
    if len({split.size for split in splits.values()}) > 1:
        raise UserError(
            "--seeds: the number of windows in a split depends on the seed; use data.split=lecture"
            ", which is the same for all seeds"
        )
    return {
        seed: split.replace(stream=jnp.pad(split.stream, (0, length - len(split.stream))))
        for seed, split in splits.items()
    }
