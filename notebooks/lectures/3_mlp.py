# %% [markdown]
# # 3. MLP: more context
#
# A bigram knows one character. This notebook trains a network that sees three, the model of
# [Bengio et al. 2003](https://www.jmlr.org/papers/volume3/bengio03a/bengio03a.pdf): each character
# becomes a learned vector, the three vectors go through one hidden layer, and the output is a
# distribution over the next character.
#
# On the way, we write the complete training in JAX: a pure loss, a pure step, and a compiled loop.
# It follows the course's lecture
# [Building makemore part 2: MLP](https://youtu.be/TCH_1BHY58I).

# %% tags=["setup"]
# set-up

# %%
import json
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from benchmarks import lectures as published
from configs.lecture_mlp import get_config
from makemore_jax import data, sampling
from makemore_jax.lectures import experiment, pictures
from makemore_jax.lectures.bigram_counts import symbols
from makemore_jax.losses import mean_loss
from makemore_jax.training.step import gradients, make_train_step

# By default, TPUs and some GPUs multiply with less precision than float32.
jax.config.update("jax_default_matmul_precision", "highest")

# %% [markdown]
# `steps` is the number of training steps. The lecture takes 200,000. The default here is smaller,
# so that the notebook finishes in less than a minute on two CPU cores.

# %% tags=["parameters"]
steps = 100_000

# %% [markdown]
# ## Windows instead of names
#
# A config of this project describes an experiment: data, model, optimizer and training.
# `configs/lecture_mlp.py` is the lecture's experiment. We set two fields. `data.path` is the
# course's list of 32,033 names, which `names_file` downloads, or without an internet connection the
# project's shorter list. Published numbers belong to the course's list. `optimizer.step_size` lets
# the learning rate drop halfway.

# %%
config = get_config()
config.data.path = experiment.names_file()
config.optimizer.step_size = steps // 2  # divide the learning rate by 10 halfway through
mlp = experiment.prepare(config)
dataset, model = mlp.dataset, mlp.model
print(config.data.path)
print(dataset.describe_splits())

# %% [markdown]
# Each example is a window: three characters, and the one that follows. Before a name begins, the
# window contains dots (token 0). `take` cuts windows out of the data:

# %%
shown = np.array(symbols(dataset.vocab))
windows, targets, _ = dataset.splits["train"].take(jnp.arange(8))  # (8, 3), (8, 1)
for window, target in zip(np.asarray(windows), np.asarray(targets), strict=True):
    print("".join(shown[window]), "->", shown[target[0]])

# %% [markdown]
# The names are split at random: 80% to train, 10% (*dev*) to compare settings, and 10% (*test*) for
# a final number. A network with thousands of parameters can memorize, and only names that it has
# not seen can show that.
#
# ## The model is a function of its parameters
#
# The parameters are a nested dictionary of arrays, outside of the model. `jax.tree.map` applies a
# function to each of them.

# %%
params = mlp.state.params
for path, shape in jax.tree_util.tree_leaves_with_path(
    jax.tree.map(jnp.shape, params), is_leaf=lambda x: isinstance(x, tuple)
):
    print(f"{jax.tree_util.keystr(path, simple=True, separator='.'):<16}{shape}")
print(f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters")

# %% [markdown]
# - `wte` is the table of embeddings: 10 numbers for each character.
# - `h_0` is the hidden layer: 3 x 10 inputs, 200 outputs, then tanh.
# - `lm_head` turns the 200 hidden units into one logit per character.
#
# Written out, the whole model is three lines:


# %%
def forward(params, windows):  # (B, 3) -> (B, V)
    x = params["wte"]["embedding"][windows].reshape(len(windows), -1)  # (B, 30)
    h = jnp.tanh(x @ params["h_0"]["kernel"] + params["h_0"]["bias"])  # (B, 200)
    return h @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]


by_hand = forward(params, windows)
by_model = model.apply({"params": params}, windows)[:, 0]
print("largest difference from the project's model:", jnp.abs(by_hand - by_model).max())

# %% [markdown]
# `makemore_jax/windows/window_mlp.py` contains the same function, for any number of layers.
#
# The loss is the mean negative log likelihood of the targets. `mean_loss` computes it from the
# logits with `log_softmax`, which stays finite for logits of any size.

# %%
loss = mean_loss(by_hand[:, None], targets)
print(f"loss of the untrained model {loss:.2f}, of a uniform guess {np.log(len(shown)):.2f}")

# %% [markdown]
# The untrained model is much worse than a uniform guess. Notebook 4 explains why, and repairs it.
#
# ## One step
#
# `make_train_step` builds a pure function: it takes a state, the training data and two keys, draws
# a batch, and returns the next state and the loss. The state contains the parameters, the optimizer
# state and the step number.
#
# A batch is 32 windows drawn at random. Its key is computed from the training key and the number of
# the step, so the batch of step 1,000 is the same no matter how we got there. An interrupted run
# can therefore continue exactly where it stopped.

# %%
train_step = make_train_step(gradients(model), mlp.optimizer, batch_size=32)
train_key, sample_key = jax.random.split(jax.random.key(3407))

new_state, metrics = jax.jit(train_step)(
    mlp.state, dataset.splits["train"], jax.random.split(train_key)
)
print(f"step {mlp.state.step} -> {new_state.step}, loss of the batch {metrics['train_loss']:.2f}")

# %% [markdown]
# ## Many steps in one program
#
# A Python loop that calls a compiled step spends most of its time between the steps, because this
# network is so small. `jax.lax.scan` moves the loop into the compiled program. Drawing the batch is
# part of it as well, since the data is an array on the device.


# %%
@partial(jax.jit, static_argnames="num_steps")
def train(state, split, key, num_steps):
    keys = jax.random.split(key)  # for batches and for dropout

    def step(state, _):
        state, metrics = train_step(state, split, keys)
        return state, metrics["train_loss"]

    return jax.lax.scan(step, state, length=num_steps)


# %% [markdown]
# ## Which learning rate?
#
# We try 16 learning rates for a few hundred steps each. `jax.vmap` runs all 16 of them at once,
# each with its own copy of the parameters. (The lecture raises the rate during a single run.) The
# function below is plain gradient descent for a single learning rate; `vmap` adds the axis.

# %%
rates = jnp.logspace(-3, 0.2, 16)


def mean_loss_of(params, batch):
    return mean_loss(model.apply({"params": params}, batch.inputs), batch.targets)


@partial(jax.jit, static_argnames="num_steps")
def train_at_rate(rate, params, split, key, num_steps):
    def step(params, i):
        batch = data.draw(split, jax.random.fold_in(key, i), batch_size=32)
        loss, grads = jax.value_and_grad(mean_loss_of)(params, batch)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    _, losses = jax.lax.scan(step, params, jnp.arange(num_steps))
    return losses[-100:].mean()


num_steps = min(steps, 500)
final = jax.vmap(train_at_rate, in_axes=(0, None, None, None, None))(
    rates, params, dataset.splits["train"], train_key, num_steps
)

plt.figure(figsize=(6.25, 3), layout="constrained")
plt.semilogx(rates, final, "o-")
plt.ylim(0, 25)
plt.xlabel("learning rate")
plt.ylabel(f"mean loss of the last 100 of {num_steps} steps")
plt.grid(color="0.92")
plt.show()

# %% [markdown]
# A rate that is too small learns slowly. One that is too large overshoots and ends at a higher
# loss. The lecture picks 0.1, and divides it by 10 halfway through. The configs do so with
# `optimizer.step_size`.
#
# ## Training

# %%
state, losses = train(mlp.state, dataset.splits["train"], train_key, steps)
pictures.loss_curves({"train": np.asarray(losses)})

# %%
trained = mlp._replace(state=state)
dev_loss = experiment.evaluate(trained, "dev")
print(f"after {steps:,} steps: train loss {experiment.evaluate(trained, 'train'):.4f}")
print(f"                    dev loss   {dev_loss:.4f}")

# %% [markdown]
# On the course's list a bigram reaches 2.45. Two more characters of context make a better model.
#
# `experiment.train` in `makemore_jax/lectures/experiment.py` is the loop that we wrote here, for
# any config. The next notebooks use it.
#
# ## What the network has learned about characters
#
# Each character is a vector of 10 numbers. We project them to the two directions in which they
# differ most. Characters that are used in similar ways get similar vectors. Vowels are red.

# %%
embeddings = np.asarray(state.params["wte"]["embedding"])  # (V, 10)
centered = embeddings - embeddings.mean(axis=0)
_, _, directions = np.linalg.svd(centered, full_matrices=False)
pictures.characters(centered @ directions[:2].T, shown)

# %% [markdown]
# ## New names

# %%
lm = experiment.language_model(trained)
names = [line.text for line in sampling.sample(lm, sample_key, num=20)]
for name, split in zip(names, dataset.found_in(names), strict=True):
    print(f"{name:<16}{split}")

# %% [markdown]
# The second column is the split in which a name occurs. `new` names are invented.
#
# ## The numbers
#
# The lecture's network with 200,000 steps, trained by `python -m benchmarks.lectures`, and the
# losses that the course published. Train and dev are losses in nats per character.

# %%
results = json.loads((published.OUT / "results.json").read_text("utf-8"))["results"]
Markdown(published.as_table({"mlp": results["mlp"]}))

# %% [markdown]
# ## What to take away
#
# - A model is a pure function of parameters and data. A training step is a pure function from one
#   state to the next.
# - `scan` turns one step into a training loop; `vmap` turns one run into many.
# - Random numbers are a function of the key and the step, so every run can be repeated exactly.
#
# Notebook 4 looks inside this network and finds that most of its hidden units are saturated.
#
# ## Exercises
#
# 1. Change `config.data.block_size` to 4 or 5. How much lower is the dev loss, and what happens to
#    the train loss?
# 2. Train networks with 50, 100, 200 and 400 hidden units. From which size on does the gap between
#    train and dev loss grow?
# 3. Beat a dev loss of 2.15 with any context, width, batch size and learning rates. `jax.vmap` over
#    seeds shows how much of a difference is chance.
