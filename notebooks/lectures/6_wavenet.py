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

# %% [markdown]
# `steps` is the number of training steps for each network. The lecture takes 200,000.

# %% tags=["parameters"]
steps = 20_000

# %% [markdown]
# ## Eight characters of context
#
# The data are windows as before, now with eight characters. They come from the course's list of
# 32,033 names if you downloaded it, otherwise from the project's shorter list. Published numbers
# belong to the course's list.
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
# Both networks have batch norm after each hidden layer. `experiment.train` is the compiled loop of
# notebook 3.

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
# Two networks of about the same size end close together. The tree uses its parameters a little
# better. It can also grow: for a window twice as long it needs one more layer, not a larger one.
#
# ## A tree is a convolution
#
# To score every character of a name, we could cut out all windows and run the tree on each. But
# neighboring windows overlap, and their trees share most of their nodes. Running the same layers
# along the whole name gives all outputs at once: that is a *dilated causal convolution*, the form
# in which WaveNet is usually described. `tests/test_windows.py` shows that both forms give the same
# results.
#
# The project's model takes the simpler way: it cuts the windows out itself. It accepts any sequence
# of at least eight characters and returns one prediction for each whole window in it. So one call
# on a long sequence equals many calls on windows:

# %%
tree = networks["tree"]
sequence = jax.random.randint(jax.random.key(0), (1, 20), 0, len(shown))


@jax.jit
def apply(tokens):
    return tree.model.apply(tree.state.variables, tokens)


on_sequence = apply(sequence)[0]  # (13, V)
windows = jnp.stack([sequence[0, i : i + 8] for i in range(13)])  # (13, 8)
on_windows = apply(windows)[:, 0]  # (13, V)
print(on_sequence.shape, "largest difference:", jnp.abs(on_sequence - on_windows).max())

# %% [markdown]
# The same holds for `jax.vmap`: write a function for one window, and `vmap` turns it into a
# function for all.


# %%
def on_one(window):  # (8,) -> (V,)
    return apply(window[None])[0, 0]


print("largest difference:", jnp.abs(jax.vmap(on_one)(windows) - on_windows).max())

# %% [markdown]
# ## New names

# %%
lm = experiment.language_model(tree)
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
