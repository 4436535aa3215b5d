# %% [markdown]
# # 5. Backpropagation by hand
#
# `jax.grad` is convenient, and it hides what happens. This notebook computes every gradient of a
# network with batch norm by hand, on whole arrays, and compares each with `jax.grad`. Then it finds
# short formulas for the two largest parts, cross-entropy and batch norm, and trains with them:
# 200,000 steps without automatic differentiation.
#
# It follows the course's lecture
# [Building makemore part 4: Becoming a Backprop Ninja](https://youtu.be/q8SA3rM6ckI). If you have a
# pencil, derive each gradient before you read it.

# %% tags=["setup"]
# set-up

# %%
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Markdown

from makemore_jax.lectures import backprop, pictures
from makemore_jax.lectures.bigram_counts import symbols
from makemore_jax.lectures.experiment import names_file

# By default, TPUs and some GPUs multiply with less precision than float32.
jax.config.update("jax_default_matmul_precision", "highest")

# %% [markdown]
# `steps` is the number of training steps at the end.

# %% tags=["parameters"]
steps = 200_000

# %% [markdown]
# ## The network
#
# The data are windows of three characters, as in notebook 3. The network has one hidden layer with
# batch norm and 12,297 parameters. It keeps the lecture's bias `b1` before batch norm.

# %%
path = names_file()
splits, vocab = backprop.load(path)
x, y = splits["train"]  # (N, 3), (N,)
init_key, batch_key, train_key = jax.random.split(jax.random.key(0), 3)

params = backprop.init(init_key, vocab.size)
chosen = jax.random.randint(batch_key, (32,), 0, len(y))
batch = x[chosen], y[chosen]
for name, array in params._asdict().items():
    print(f"{name:<8}{array.shape}")
print(f"{backprop.count_params(params):,} parameters, {len(y):,} training windows")

# %% [markdown]
# The forward pass is written in steps so small that each has a simple derivative. It returns the
# loss and every intermediate result. (`add` is explained below. Ignore it at the first reading.)

# %%
print(inspect.getsource(backprop.forward))

# %%
loss, saved = jax.jit(backprop.forward)(params, *batch)
print(f"loss {loss:.4f}, {len(saved)} intermediate results")

# %% [markdown]
# ## Three rules are enough
#
# Write `dz` for the gradient of the loss with respect to `z`. It always has the shape of `z`. Going
# backward through the steps, three rules occur again and again:
#
# 1. **Elementwise step**, `z = f(x)`: multiply by the derivative, `dx = dz * f'(x)`.
# 2. **Broadcast and sum are each other's opposite.** If the forward pass copies a number along an
#    axis, the backward pass sums along that axis. If the forward pass sums, the backward pass
#    copies.
# 3. **Matrix product**, `z = x @ w`: `dx = dz @ w.T` and `dw = x.T @ dz`. The shapes leave no other
#    choice.
#
# If a value is used twice, its two gradients add up. We try the rules on small arrays. `jax.vjp`
# runs the backward pass of any function for a given `dz`:

# %%
dz = jnp.arange(6.0).reshape(2, 3)
small = jnp.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])

_, backward_of_tanh = jax.vjp(jnp.tanh, small)
print("1. tanh:     ", jnp.allclose(backward_of_tanh(dz)[0], dz * (1 - jnp.tanh(small) ** 2)))

bias = jnp.array([1.0, 2.0, 3.0])
_, backward_of_add = jax.vjp(lambda bias: small + bias, bias)
print("2. broadcast:", jnp.allclose(backward_of_add(dz)[0], dz.sum(axis=0)))

w = jnp.ones((4, 3))
inputs = jnp.arange(8.0).reshape(2, 4)
_, backward_of_product = jax.vjp(lambda inputs, w: inputs @ w, inputs, w)
dinputs, dw = backward_of_product(dz)
print("3. product:  ", jnp.allclose(dinputs, dz @ w.T) and jnp.allclose(dw, inputs.T @ dz))

# %% [markdown]
# ## The whole backward pass
#
# With these rules, each line of the forward pass becomes one line of the backward pass, in reverse
# order. Compare the two functions line by line.

# %%
print(inspect.getsource(backprop.backward))

# %% [markdown]
# Now the check. To get the gradients of intermediate results from `jax.grad`, we use a trick: add
# zeros to each intermediate result, make these zeros an argument, and differentiate with respect to
# them. That is the `add` argument of `forward`.
#
# `differences` compares every gradient. Its numbers are relative to the largest entry of the
# gradient; in 32-bit floats, anything near 1e-7 is rounding. The gradient of `b1` is 0, because
# batch norm subtracts any bias. Its difference is relative to the terms that add up to 0.

# %%
differences = backprop.differences(params, *batch)
print(f"{len(differences)} gradients, largest difference {max(differences.values()):.1e}")
for name in backprop.Params._fields:
    print(f"{name:<8}{differences[name]:.0e}")

# %% [markdown]
# ## Cross-entropy in one line
#
# The eight steps from the logits to the loss have a gradient that simplifies to
#
# $$\frac{\partial\,\text{loss}}{\partial\,\text{logits}}
# = \frac{\text{softmax}(\text{logits}) - \text{onehot}(y)}{B}$$
#
# Read it as a force: each wrong character is pushed down by its probability, and the right one is
# pulled up by 1 minus its probability. The forces of a row sum to zero. A confident, correct
# prediction gets almost no force.

# %%
print(inspect.getsource(backprop.cross_entropy_backward))

# %%
dlogits = backprop.cross_entropy_backward(saved.logits, batch[1])
print("sum of each row is 0:", jnp.allclose(dlogits.sum(axis=1), 0, atol=1e-7))
pictures.logit_gradients(np.asarray(dlogits), np.asarray(batch[0]), symbols(vocab))

# %% [markdown]
# ## Batch norm in one line
#
# Batch norm subtracts the mean and divides by the standard deviation. Its output stays the same if
# all inputs of a unit move by the same amount, or are all scaled by the same factor. So the
# gradient has no part in these two directions, and the formula removes both: the mean, and the part
# along the normalized input.

# %%
print(inspect.getsource(backprop.batch_norm_backward))

# %% [markdown]
# The short formulas agree with `jax.grad` as well:

# %%
for name in ("logits, short", "hprebn, short"):
    print(f"{name:<16}{differences[name]:.0e}")

# %% [markdown]
# ## Training without jax.grad
#
# The training loop takes a function that returns the loss and the gradients, and it does not matter
# how that function computes them. The default is `loss_and_grads_by_hand`. The learning rate is 0.1
# for the first half of all steps and 0.01 for the second.

# %%
trained, losses = backprop.train(params, train_key, splits["train"], steps)
rates = backprop.LEARNING_RATES
pictures.losses(np.asarray(losses), backprop.first_half(steps), rates)

# %% [markdown]
# The same loop with gradients from `jax.grad` follows the same path. Rounding differs in the last
# digit, and training slowly enlarges such differences.


# %%
def loss_and_grads_by_jax(params, x, y):
    return jax.value_and_grad(lambda p: backprop.forward(p, x, y)[0])(params)


few = min(steps, 100)
_, by_hand = backprop.train(params, train_key, splits["train"], few)
_, by_jax = backprop.train(
    params, train_key, splits["train"], few, loss_and_grads=loss_and_grads_by_jax
)
print(f"largest difference of the loss in {few} steps: {jnp.abs(by_hand - by_jax).max():.1e}")

# %% [markdown]
# ## The numbers
#
# For a single name there is no batch to normalize with. `calibrate` computes the statistics of
# batch norm once, over the whole training split.
#
# `python -m makemore_jax.lectures.backprop --data data/makemore_names.txt` runs the same training
# and prints all comparisons. The published losses are the lecture's, for 200,000 steps on the
# course's list.

# %%
statistics = backprop.calibrate(trained, x)
reached = {name: backprop.evaluate(trained, statistics, split) for name, split in splits.items()}
Markdown(f"""
| | this notebook, {steps:,} steps | published |
|---|---|---|
| train loss | {reached["train"]:.4f} | 2.0705 |
| dev loss | {reached["dev"]:.4f} | 2.1099 |

Data: {Path(path).name}.
""")

# %% [markdown]
# ## What to take away
#
# - A backward pass is a program like any other, with the shapes as a guide.
# - Composite steps have short gradients. That is why libraries fuse softmax and cross-entropy.
# - Trust a gradient only after you have computed it in another way as well.
#
# Notebook 6 makes the network deeper and gives it eight characters of context.
#
# ## Exercises
#
# 1. Break one line of a copy of `backprop.backward` and compare all gradients again. Which other
#    gradients are wrong now, and why exactly these?
# 2. Derive the backward pass of LayerNorm, which normalizes each example instead of each unit.
#    Start from `batch_norm_backward`. Two things change: the variance divides by the number of
#    units, and the gain differs along the axis of the mean. Check it with `jax.vjp`.
# 3. Write `cross_entropy_backward` as a `jax.custom_vjp`, so that `jax.grad` uses your formula.
