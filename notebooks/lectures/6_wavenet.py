# %% [markdown]
# # 6. WaveNet: joining characters step by step
#
# The MLP of notebook 3 feeds all characters of the window into one layer at once. With eight
# characters that layer has to combine everything in a single step. This notebook joins neighbors
# in pairs instead, layer by layer, like the tree of
# [WaveNet](https://arxiv.org/abs/1609.03499), and compares both networks at the same number of
# parameters.
#
# It follows the course's lecture
# [Building makemore part 5: Building a WaveNet](https://youtu.be/t3YJ5hKiMQ0).

# %% tags=["setup"]
# set-up

# %%
import json

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Markdown

from benchmarks import lectures as published
from configs.lecture_wavenet import get_config
from makemore_jax import sampling
from makemore_jax.lectures import experiment, pictures
from makemore_jax.lectures.bigram_counts import symbols

# By default, TPUs and some GPUs multiply with less precision than float32.
jax.config.update("jax_default_matmul_precision", "highest")

# %% [markdown]
# `steps` is the number of training steps for each network. The lecture takes 200,000.

# %% tags=["parameters"]
steps = 20_000

# %% [markdown]
# ## Eight characters of context
#
# The data are windows as before, now with eight characters.
#
# We prepare two networks:
#
# - **flat**: one hidden layer of 200 units on all eight characters;
# - **tree**: three hidden layers of 68 units; each joins two neighbors (`fuse = 2`).

# %%
config = get_config()
config.data.path = experiment.names_file()
config.model.n_embd, config.model.n_embd2 = 10, 68
tree = experiment.prepare(config)

config = get_config()
config.data.path = experiment.names_file()
config.model.n_embd, config.model.n_embd2 = 10, 200
config.model.n_layer, config.model.fuse = 1, None
flat = experiment.prepare(config, tree.dataset)

networks = {"flat": flat, "tree": tree}
for name, network in networks.items():
    num_params = sum(p.size for p in jax.tree.leaves(network.state.params))
    print(f"{name}: {num_params:,} parameters")

# %% [markdown]
# The tree reduces a window of eight vectors to four, to two, to one. The first layer sees pairs of
# characters, the second groups of four, the third all eight.

# %%
shown = np.array(symbols(tree.dataset.vocab))
windows, targets, _ = tree.dataset.splits["train"].take(jnp.array([6]))
pictures.tree(list(shown[np.asarray(windows[0])]), fuse=2)

# %% [markdown]
# ## The shapes
#
# A layer joins two neighbors by a `reshape`: (B, T, C) becomes (B, T / 2, 2 C), two vectors side by
# side. Then it multiplies the last axis. An array operation does not care how many axes come before
# the last, so the same linear layer serves every pair.

# %%
B, T, C = 3, 8, 10
x = jnp.zeros((B, T, C))
print("embeddings    ", x.shape)
for layer in range(3):
    x = x.reshape(B, x.shape[1] // 2, -1)
    print(f"pairs         {x.shape}")
    x = x @ jnp.zeros((x.shape[-1], 68))
    print(f"after layer {layer + 1} {x.shape}")

# %% [markdown]
# ## Training
#
# Both networks have batch norm after each hidden layer. In the tree it averages over the batch
# *and* the positions; at first the lecture's BatchNorm1d averages over the batch only, a bug that
# it then fixes. `experiment.train` is the compiled loop of notebook 3.

# %%
train_key, sample_key = jax.random.split(jax.random.key(3407))
curves = {}
for name, network in networks.items():
    networks[name], curves[name] = experiment.train(network, steps, train_key)
pictures.loss_curves(curves)

# %%
for name, network in networks.items():
    print(f"{name}: dev loss {experiment.evaluate(network, 'dev'):.4f} after {steps:,} steps")

# %% [markdown]
# The tree learns faster with about the same number of parameters. After 200,000 steps the two are
# close (see the numbers below). The tree can also grow: for a window twice as long it needs one
# more layer, not a larger one.
#
# ## A tree is a convolution
#
# To predict every character of a name, we could cut out all windows and run the tree on each. But
# neighboring windows overlap, and their trees share most of their nodes. A *dilated causal
# convolution* computes each node once. It applies each layer to the whole sequence: the first layer
# joins each position with the next one, the second layer joins positions 2 apart, the third 4
# apart. WaveNet is usually described in this form.
#
# Here are both forms with random weights, without batch norm:


# %%
def tree_output(weights, window):  # (8, C) -> (H,)
    x = window
    for w in weights:
        x = jnp.tanh(x.reshape(len(x) // 2, -1) @ w)  # half as many rows
    return x[0]


def convolution(weights, x):  # (T, C) -> (T - 7, H)
    for dilation, w in zip((1, 2, 4), weights, strict=True):
        neighbors = jnp.concatenate([x[:-dilation], x[dilation:]], axis=1)
        x = jnp.tanh(neighbors @ w)  # `dilation` fewer rows
    return x


x_key, *weight_keys = jax.random.split(jax.random.key(0), 4)
sequence = jax.random.normal(x_key, (20, 10))
weights = [
    jax.random.normal(key, (2 * n, 68)) * (2 * n) ** -0.5
    for key, n in zip(weight_keys, (10, 68, 68), strict=True)
]

# %% [markdown]
# `tree_output` is written for one window. `jax.vmap` turns it into a function for all windows.

# %%
windows = jnp.stack([sequence[i : i + 8] for i in range(13)])  # (13, 8, C)
by_tree = jax.vmap(tree_output, in_axes=(None, 0))(weights, windows)  # (13, H)
by_convolution = convolution(weights, sequence)
print(by_tree.shape, "largest difference:", jnp.abs(by_tree - by_convolution).max())

# %% [markdown]
# The project's model takes the simpler way and cuts the windows out itself.
# `tests/test_windows.py` compares it with a convolution that has the same parameters.

# %% [markdown]
# ## New names

# %%
lm = experiment.language_model(networks["tree"])
names = [line.text for line in sampling.sample(lm, sample_key, num=20)]
print(", ".join(names))

# %% [markdown]
# ## The numbers
#
# The lecture's three networks with 200,000 steps, trained by `python -m benchmarks.lectures`,
# and the losses that the course published. Train and dev are losses in nats per character on
# the course's list. The last network is the same tree with wider layers.

# %%
results = json.loads((published.OUT / "results.json").read_text("utf-8"))["results"]
Markdown(published.as_table({name: results[name] for name in ("flat", "tree", "wavenet")}))

# %% [markdown]
# ## What to take away
#
# - Structure is a `reshape`: the tree has the same kind of layers as the MLP, applied to pairs.
# - A network on windows and a convolution over a sequence are the same function.
# - Eight characters instead of three lower the dev loss from about 2.10 to about 2.02, a wider tree
#   to below 2.
#
# A tree has a fixed window, and it joins neighbors whether they matter or not. Notebook 7 lets each
# position choose where to look.
#
# ## Exercises
#
# 1. Set `config.data.block_size = 16`. Compare two layers with `fuse = 4` and four layers of pairs,
#    with about the same number of parameters.
# 2. Add WaveNet's gated units (equation 2 of the paper) and residual connections to `convolution`.
#    `makemore_jax/models/cnn.py` has both; train it with `python train.py --config configs/cnn.py`.
# 3. Count the multiplications per character for all windows of a long text, in both forms.
