"""Compile the programs of a config for a TPU, on a machine without one.

libtpu contains the compiler for TPUs. It needs only a description of the chips. Set ENVIRONMENT
before libtpu is loaded, in a process that uses no real TPU.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from makemore_jax.assemble import create_model, load_data, programs
from makemore_jax.config import Config, MeshConfig
from makemore_jax.decoding import DEFAULT_DECODING
from makemore_jax.kernels.layouts import Rows
from makemore_jax.parallel import evaluation, sampling, shardings
from makemore_jax.parallel.mesh import unroll_layers
from makemore_jax.text import streaming
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask a cloud's metadata server which TPU this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile
    "JAX_PLATFORMS": "cpu",
}
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
# A callback is a custom call on CPU and GPU, and a pair of send and recv on TPU.
HOST_TRANSFER = re.compile(r" (infeed|outfeed|send|recv)\(|target=\"(\w*(?:callback|Host)\w*)\"")
STEPS_PER_CALL = 100


def is_available() -> bool:
    """Return whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def make_mesh(topology: str, config: MeshConfig) -> Mesh:
    """Return a mesh of described TPU chips. `topology` is a name such as "v5e:2x2"."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    shape = (config.data, config.model)
    devices = np.array(devices[: config.data * config.model]).reshape(shape)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


class Programs:
    """The programs of a config, lowered for the devices of a mesh.

    `platform` is the mesh's, "tpu" or "gpu". No array is computed: every method lowers a
    jitted function for abstract arguments. `lower` may replace `function.lower(*args)`.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        platform: str = "tpu",
        lower: Callable[..., Any] = lambda function, *args: function.lower(*args),
    ):
        self.config, self.mesh, self._lower = config, mesh, lower
        self.dataset = load_data(config.data, config.seed)
        vocab_size, block_size = self.dataset.vocab.size, self.dataset.block_size
        model = create_model(config.model, vocab_size, block_size, platform)
        self.model = unroll_layers(model, config)
        self.optimizer = make_optimizer(config.optimizer, config.train.steps)
        state = state_lib.shapes(self.model, self.optimizer, block_size)
        self.shardings = None
        if shardings.shards_state(mesh, config.mesh):
            self.shardings = shardings.infer_state_shardings(mesh, config.mesh, state)
            self.state = jax.tree.map(_abstract, state, self.shardings.stored)
        else:
            self.state = self._replicated(state)
        self.key = self._replicated(jax.eval_shape(partial(jax.random.key, 0)))

    def train_steps(self) -> Any:
        """Lower a call of STEPS_PER_CALL training steps."""
        config = self.config.train
        layouts = [Rows(self.dataset.block_size)]  # as `layouts.choose` on an accelerator
        steps = programs.compile_steps(
            *(self.model, self.optimizer, config.batch_size, layouts, self.mesh),
            *(config.accumulate, self.shardings),
        )
        split = self._replicated(self.dataset.splits["train"])
        return self._lower(steps, self.state, split, self.key, STEPS_PER_CALL)

    def evaluation(self) -> Any:
        """Lower the losses of a batch of the dev split."""
        split = self.dataset.splits["dev"].for_evaluation()
        take, sum_batch = evaluation.compile_take_and_sum(self.model, self.mesh)
        indices = jax.ShapeDtypeStruct((split.eval_batch_size(),), np.int32)
        batch = jax.eval_shape(take, split, indices, split.size)
        return self._lower(sum_batch, self.state.variables, self._replicated(batch))

    def decoding(self) -> Any:
        """Lower sampling with a carry: of lines, or of the first tokens of a text."""
        if self.dataset.vocab.has_end:
            numbers = np.arange(64, dtype=np.int32)
            prompt = np.full(self.dataset.max_len, -1, np.int32)
            args = self._replicated((self.state.variables, self.key, numbers, prompt))
            return self._lower(sampling.generate, self.model, *args, DEFAULT_DECODING, self.mesh)
        init_carry = partial(self.model.apply, method="init_carry")
        carry = jax.eval_shape(lambda variables: init_carry(variables, 1), self.state.variables)
        return self._decode((carry, np.zeros(1, np.int32)), is_cached=True)

    def streaming(self) -> Any:
        """Lower sampling of a text that is longer than the context of the model."""
        return self._decode(np.zeros((1, self.dataset.block_size), np.int32), is_cached=False)

    def _decode(self, context: Any, is_cached: bool) -> Any:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        counts = np.int32(0), np.int32(streaming.TOKENS_PER_CALL)
        args = self._replicated((self.state.variables, keys, context, *counts))
        return self._lower(streaming._decode, self.model, *args, DEFAULT_DECODING, is_cached)

    def _replicated(self, tree: Any) -> Any:
        return jax.tree.map(partial(_abstract, sharding=shardings.replicated(self.mesh)), tree)


def _abstract(array: Array, sharding: Any) -> jax.ShapeDtypeStruct:
    if getattr(array, "sharding", None) is not None and not isinstance(array, jax.Array):
        return array  # abstract already
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def collectives(program: Any) -> dict[str, int]:
    """Return the number of each kind of collective in a compiled program."""
    return dict(Counter(sorted(COLLECTIVE.findall(program.as_text()))))


def host_transfers(program: Any) -> set[str]:
    """Return the operations of a compiled program that exchange data with the host."""
    return {a or b for a, b in HOST_TRANSFER.findall(program.as_text())}


def memory(program: Any) -> int:
    """Return the bytes of memory that a compiled program needs on each chip."""
    analysis = program.memory_analysis()
    parts = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    return parts - analysis.alias_size_in_bytes
