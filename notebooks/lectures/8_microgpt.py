# %% [markdown]
# # 8. microgpt: from single numbers to one compiled program
#
# Andrej Karpathy's microgpt is a whole GPT, with its own autograd, in one file of plain Python. It
# is the end of the road that notebook 2 began. This notebook trains the same GPT in four forms, and
# each computes the same numbers:
#
# 1. a graph of single numbers, with the `Value` of notebook 2;
# 2. a pure function of arrays, and `jax.grad` instead of the graph;
# 3. the same step, compiled by `jax.jit`;
# 4. all steps in one compiled loop, `jax.lax.scan`.
#
# Nothing about the model changes between them. What changes is who keeps track of the computation.

# %% tags=["setup"]
# set-up

# %%
import inspect
import random
import time
from pathlib import Path

import jax
import numpy as np
from IPython.display import Markdown

from makemore_jax.data.files import read
from makemore_jax.data.lines import split_lines
from makemore_jax.lectures import experiment, microgpt, pictures

# Plain Python computes in float64. To get the same digits, JAX must do so as well.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")

# %% [markdown]
# `steps` is the number of training steps in the last two forms, at most 1,000: the learning rate
# falls to 0 in 1,000 steps, as in microgpt.

# %% tags=["parameters"]
steps = 1_000

# %% [markdown]
# ## Data and initial values
#
# An example is one name. The order of the names and the initial weights come from Python's `random`
# with microgpt's seed, so that all forms start from the same numbers.

# %%
path = experiment.names_file()
lines = split_lines(read(path, "utf-8")[0])
generator = random.Random(microgpt.SEED)
documents = microgpt.shuffle(lines, generator)
weights = microgpt.init(generator, vocab_size=documents.bos + 1)  # nested lists of numbers
print(f"{len(lines):,} names in {Path(path).name}, first {documents.lines[0]}")
print(f"{len(jax.tree.leaves(weights)):,} weights")

inputs, targets = microgpt.transitions(documents, step=0)
print("inputs ", inputs)
print("targets", targets)

# %% [markdown]
# ## 1. A graph of single numbers
#
# `scalar_loss` computes the loss of one name. Every sum and every product is a node.

# %%
print(inspect.getsource(microgpt.scalar_loss))
print(inspect.getsource(microgpt.scalar_logits))

# %% [markdown]
# It reads the name one character at a time, as sampling does. Keys and values of earlier positions
# are kept in lists, so no mask is needed: a position can't see what has not been computed yet.
#
# The step computes the loss, the gradients of all weights and the update by Adam. A state goes in,
# and a new state comes out.

# %%
print(inspect.getsource(microgpt.scalar_step))
print(inspect.getsource(microgpt.adam))

# %%
few = min(steps, 3)
state, scalar_losses = microgpt.init_state(weights), []
start = time.perf_counter()
for step in range(few):
    state, loss = microgpt.scalar_step(state, step, *microgpt.transitions(documents, step))
    scalar_losses.append(loss)
seconds = {"graph of single numbers": (time.perf_counter() - start) / few}
print("losses:", *(f"{loss:.10f}" for loss in scalar_losses))

# %% [markdown]
# On makemore's list, microgpt prints 3.3660 for the first step.
#
# ## 2. A function of arrays
#
# Now all characters of a name are processed together. The lists of keys and values become arrays,
# and a mask hides the future. Compare the two functions: the formulas are the same.

# %%
print(inspect.getsource(microgpt.forward))
print(inspect.getsource(microgpt.array_step))

# %% [markdown]
# Names are padded to the same length, so that all steps have the same shapes. A target of -1 is
# padding, which the loss ignores.

# %%
all_inputs, all_targets = microgpt.batches(documents, steps)  # (steps, T) each
params = microgpt.as_arrays(weights)


def run_steps(array_step, num_steps):
    state, losses = microgpt.init_state(params), []
    for step in range(num_steps):
        state, loss = array_step(state, float(step), all_inputs[step], all_targets[step])
        losses.append(float(loss))
    return losses


run_steps(microgpt.array_step, 1)  # the first call compiles each operation
start = time.perf_counter()
array_losses = run_steps(microgpt.array_step, few)
seconds["functions of arrays"] = (time.perf_counter() - start) / few
print("largest difference:", np.abs(np.subtract(array_losses, scalar_losses)).max())

# %% [markdown]
# ## 3. A compiled step
#
# So far, Python calls JAX for each operation. `jax.jit` records the step once, and compiles the
# record into one program. Again we call it once before we measure.

# %%
compiled_step = jax.jit(microgpt.array_step)
run_steps(compiled_step, 1)
start = time.perf_counter()
compiled_losses = np.array(run_steps(compiled_step, steps))
seconds["compiled step"] = (time.perf_counter() - start) / steps

# %% [markdown]
# ## 4. A compiled loop
#
# The last Python left is the loop. `jax.lax.scan` moves it into the program: the inputs of all
# steps go in, the losses of all steps come out.

# %%
print(inspect.getsource(microgpt.train.__wrapped__))

# %%
microgpt.train(params, all_inputs, all_targets)
start = time.perf_counter()
trained, losses = jax.block_until_ready(microgpt.train(params, all_inputs, all_targets))
seconds["compiled loop"] = (time.perf_counter() - start) / steps
print(f"loss of step {steps:,}: {losses[-1]:.10f}")
print("largest difference from the compiled step:", np.abs(losses - compiled_losses).max())
pictures.loss_curves({"microgpt": np.asarray(losses)})

# %% [markdown]
# ## New names

# %%
print(", ".join(microgpt.sample(trained, documents, generator) for _ in range(20)))

# %% [markdown]
# ## The numbers
#
# `python -m benchmarks.microgpt` measures the same forms with more care, and `docs/lectures.md` has
# its table.

# %%
slowest = max(seconds.values())
rows = [
    f"| {form} | {1000 * value:,.2f} | {slowest / value:,.0f} |" for form, value in seconds.items()
]
Markdown("| form | ms per step | times as fast |\n|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# ## What to take away
#
# - A gradient depends on the function, not on how the function is written.
# - Pure functions can be recorded, compiled and looped without changing a line of them.
# - The model of `configs/transformer.py` has the same structure, with batches, four wider layers,
#   LayerNorm, biases and GELU.
#
# ## Exercises
#
# 1. Train on eight names per step: write the loss of a batch with `jax.vmap`, and let the learning
#    rate fall to 0 at your last step. Compare the mean loss of the last 100 steps.
# 2. Add a second layer. Which of the four forms need a change?
# 3. `makemore_jax/lectures/microgpt_numpy.py` has the gradients by hand, in NumPy. Add it to the
#    table as a fifth form.
