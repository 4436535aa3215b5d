# %% [markdown]
# # 4. Activations, gradients and batch norm
#
# The network of notebook 3 trains, but it starts badly. This notebook looks at the numbers inside
# it, finds two faults in its initial values, and repairs them. Then it makes the network six layers
# deep (five hidden layers and the output layer), where good initial values are hard to find, and
# adds batch norm, which tolerates bad ones.
#
# It follows the course's lecture
# [Building makemore part 3: Activations & Gradients, BatchNorm](https://youtu.be/P6sfmUTpUmc).

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
from configs import lecture_deep_batchnorm, lecture_mlp
from makemore_jax import data
from makemore_jax.assemble import load_data
from makemore_jax.diagnostics import trace
from makemore_jax.lectures import experiment, pictures
from makemore_jax.losses import mean_loss
from makemore_jax.training.step import sum_loss

# %% [markdown]
# `steps` is the number of training steps for each set of initial values. The lecture takes 200,000.

# %% tags=["parameters"]
steps = 10_000

# %%
train_key, batch_key = jax.random.split(jax.random.key(3407))
config = lecture_mlp.get_config()
config.data.path = experiment.names_file()
dataset = load_data(config.data, config.seed)
train_split = dataset.splits["train"]
windows, targets, _ = batch = data.draw(train_split, batch_key, batch_size=1_000)  # (B, 3), (B, 1)

# %% [markdown]
# ## Fault 1: confidently wrong
#
# Before training, a network knows nothing. It should give all 27 tokens the same probability, which
# is a loss of ln 27 = 3.30. But if all weights come from the normal distribution N(0, 1), the
# logits are large, and softmax turns large logits into near-certain predictions. Most of these are
# wrong.
#
# We compare four sets of initial values, in the order in which the lecture improves them:
#
# - `normal`: everything N(0, 1);
# - `small_output`: the output layer multiplied by 0.01, its bias 0;
# - `small`: the weights of the hidden layer multiplied by 0.2 as well, its bias by 0.01;
# - `kaiming`: the hidden layer multiplied by a factor from a rule instead of by trial.
#
# Parameters are a dictionary, so new initial values are a new dictionary. The options of
# `model.init_scale` in the project's configs have the same names and factors.


# %%
def scaled(params, layer, weight, bias):
    """Multiply the weights and the bias of a layer by these factors."""
    kernel, old_bias = params[layer]["kernel"], params[layer]["bias"]
    return {**params, layer: {"kernel": weight * kernel, "bias": bias * old_bias}}


mlp = experiment.prepare(config, dataset)
normal = mlp.state.params
small_output = scaled(normal, "lm_head", 0.01, 0.0)
small = scaled(small_output, "h_0", 0.2, 0.01)
kaiming = scaled(small_output, "h_0", 5 / 3 / 30**0.5, 0.01)

all_params = {
    "normal": normal,
    "small_output": small_output,
    "small": small,
    "kaiming": kaiming,
}

# %% [markdown]
# One compiled function, the network of notebook 3 written out, looks inside all four.


# %%
@jax.jit
def look_inside(params, windows, targets):
    """Return the loss on the batch, the hidden units (B, 200) and the logits (B, 27)."""
    x = params["wte"]["embedding"][windows].reshape(len(windows), -1)
    h = jnp.tanh(x @ params["h_0"]["kernel"] + params["h_0"]["bias"])
    logits = h @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]
    return mean_loss(logits[:, None], targets), h, logits


hidden = {}
rows = []
for name, params in all_params.items():
    loss, hidden[name], logits = jax.device_get(look_inside(params, windows, targets))
    saturated = (np.abs(hidden[name]) > 0.97).mean()
    rows.append(f"| {name} | {logits.std():.2f} | {loss:.2f} | {saturated:.0%} |")
Markdown(
    "| initial values | standard deviation of the logits | loss | tanh saturated |\n"
    "|---|---|---|---|\n" + "\n".join(rows)
)

# %% [markdown]
# With `normal` the loss starts far above 3.30. Training spends its first steps only on making the
# logits smaller. A small output layer avoids that.
#
# ## Fault 2: saturated units
#
# The last column shows the second fault. A tanh unit is *saturated* when its value is near -1 or 1.
# There tanh is flat: its derivative, `1 - tanh(x)**2`, is near 0. On the way back the
# gradient is multiplied by this derivative, so almost nothing arrives at the weights below.

# %%
x = jnp.linspace(-5, 5, 201)
slope = jax.vmap(jax.grad(jnp.tanh))(x)

plt.figure(figsize=(6.25, 2.6), layout="constrained")
plt.plot(x, jnp.tanh(x), label="tanh")
plt.plot(x, slope, label="derivative of tanh")
plt.legend()
plt.grid(color="0.92")
plt.show()

# %% [markdown]
# The picture shows the distribution of the hidden units over 1,000 windows. With `normal` most of
# them are at the ends, and `small_output` has the same hidden layer. With `small` and
# `kaiming` many are in the middle, where gradients pass.

# %%
del hidden["small_output"]
pictures.histograms({"values of the hidden units": hidden})

# %% [markdown]
# ## The rule
#
# How small should the weights be? A unit adds up `fan_in` products. If inputs and weights have
# variance 1, the sum has variance `fan_in`, and its standard deviation is `sqrt(fan_in)`. Dividing
# the weights by `sqrt(fan_in)` keeps the standard deviation at 1. Since tanh makes its input
# smaller, the weights also get a factor of 5/3. PyTorch's `torch.nn.init.calculate_gain` calls it
# the *gain* of tanh. [He et al. 2015](https://arxiv.org/abs/1502.01852) derived the rule for ReLU,
# whose gain is the square root of 2.

# %%
x_key, w_key = jax.random.split(jax.random.key(0))
x = jax.random.normal(x_key, (1000, 30))
w = jax.random.normal(w_key, (30, 200))
for title, weights in (("w", w), ("w / sqrt(30)", w / 30**0.5)):
    print(f"{title:<14} standard deviation of x @ w: {(x @ weights).std():.2f}")

# %% [markdown]
# ## Does it matter?
#
# We train all four at once: stack the four sets of parameters along a new axis, and map the
# training over it with `jax.vmap`. Every network sees the same batches.


# %%
def train_from(params):
    state = mlp.state.replace(params=params)
    _, losses = experiment.train_state(
        mlp.model, mlp.optimizer, 32, steps, state, train_split, train_key
    )
    return losses


stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_params.values())
losses = jax.vmap(train_from)(stacked)  # (4, steps)
pictures.loss_curves(dict(zip(all_params, np.asarray(losses), strict=True)))

# %% [markdown]
# The better the start, the lower the curve, and the advantage lasts. `small` and `kaiming` end
# together: the rule finds what otherwise takes trial and error.
#
# ## Deeper: six layers
#
# In a deep network each layer works on what the layer below gives it. If each makes its input a
# little smaller, nothing is left at the top. If each makes it larger, every unit saturates.
# Gradients have the same problem on their way down.
#
# *Batch norm* ([Ioffe and Szegedy 2015](https://arxiv.org/abs/1502.03167)) solves this directly:
# after each linear layer it subtracts the mean of every unit over the batch and divides by its
# standard deviation. Then a learned scale and bias let the network choose any other range.
#
# We build the lecture's network of six layers twice, with and without batch norm. With batch norm,
# its linear layers have no bias: batch norm would subtract it again. The weights have standard
# deviation `1 / sqrt(fan_in)`, without the gain of 5/3, which batch norm makes unnecessary. Now
# suppose that all hidden weights are halved.


# %%
def deep_network(batch_norm):
    config = lecture_deep_batchnorm.get_config()
    if not batch_norm:
        config.model.batch_norm, config.model.output_norm = "none", False
    return experiment.prepare(config, dataset)


def with_hidden_weights(state, factor):
    """Multiply the weights of all hidden layers by a factor."""
    params = {
        name: {**layer, "kernel": factor * layer["kernel"]} if name.startswith("h_") else layer
        for name, layer in state.params.items()
    }
    return state.replace(params=params)


deep = {"without batch norm": deep_network(False), "with batch norm": deep_network(True)}
halved = {title: with_hidden_weights(network.state, 0.5) for title, network in deep.items()}

# %% [markdown]
# The gradient of the loss with respect to an activation needs a trick, since `jax.grad`
# differentiates with respect to arguments only: add zeros to the activations, make them an
# argument, and differentiate with respect to them. `diagnostics.trace` does this for any model: it
# finds the nonlinearities in the recorded program and adds the zeros there.


# %%
def look_deep(network, state):
    """Return activations and their gradients by layer, and gradients of the parameters."""

    def loss_fn(params):
        loss, (count, _) = sum_loss(network.model, params, state.model_state, batch, batch_key)
        return loss / count

    taps, tapped = trace(loss_fn, state.params)
    zeros = [jnp.zeros(tap.shape) for tap in taps]
    gradient = jax.jit(jax.grad(tapped, argnums=(0, 1), has_aux=True))
    (by_layer, by_parameter), activations = gradient(zeros, state.params)
    layers = [f"layer {i}" for i in range(1, len(taps) + 1)]
    return (
        dict(zip(layers, jax.device_get(activations), strict=True)),
        dict(zip(layers, jax.device_get(by_layer), strict=True)),
        by_parameter,
    )


inside = {title: look_deep(network, halved[title]) for title, network in deep.items()}
pictures.histograms(
    {f"activations {title}": activations for title, (activations, _, _) in inside.items()}
)

# %% [markdown]
# Without batch norm the activations shrink from layer to layer. With it all five hidden layers have
# the same distribution, because batch norm undoes any factor of the weights.
#
# Gradients go the other way, from the last layer to the first. Without batch norm they shrink on
# their way. With it they stay of similar size:

# %%
pictures.histograms(
    {f"gradients of the activations {title}": grads for title, (_, grads, _) in inside.items()}
)

# %% [markdown]
# ## How far does each weight move?
#
# One more number is worth watching: the size of an update, divided by the size of the weights that
# it changes. A common rule of thumb is 1/1000. Far below it, a layer hardly learns; far above it,
# training is unstable. For gradient descent an update is the learning rate times the gradient.

# %%
learning_rate = lecture_deep_batchnorm.get_config().optimizer.learning_rate
rows = []
for layer in ("h_0", "h_1", "h_2", "h_3", "h_4", "lm_head"):
    ratios = []
    for title in deep:
        _, _, gradients = inside[title]
        weights = halved[title].params[layer]["kernel"]
        ratios.append(learning_rate * gradients[layer]["kernel"].std() / weights.std())
    rows.append(f"| {layer} | " + " | ".join(f"1 / {1 / ratio:,.0f}" for ratio in ratios) + " |")
Markdown(f"| update / weights | {' | '.join(deep)} |\n|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# Without batch norm the hidden layers hardly move. With batch norm they all learn at similar
# speeds.
#
# ## Does batch norm matter?
#
# The lecture trains the deep network for 1,000 steps, only to look inside. We do the same for
# several factors of the hidden weights, again all at once with `jax.vmap`.

# %%
factors = jnp.array([0.2, 0.5, 1.0, 2.0, 5.0])
num_steps = min(steps, 1_000)
columns = {}
for title, network in deep.items():

    def train_with(factor, network=network):
        state = with_hidden_weights(network.state, factor)
        return experiment.train_state(
            network.model, network.optimizer, 32, num_steps, state, train_split, train_key
        )

    states, losses = jax.vmap(train_with)(factors)
    columns[title] = losses[:, -100:].mean(axis=1)
    deep[title] = network._replace(state=jax.tree.map(lambda a: a[2], states))  # factor 1

rows = [
    f"| {factor:g} | " + " | ".join(f"{losses[i]:.4f}" for losses in columns.values()) + " |"
    for i, factor in enumerate(factors)
]
print(f"mean loss of the last 100 of {num_steps:,} steps")
Markdown(f"| hidden weights times | {' | '.join(columns)} |\n|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# Without batch norm the loss depends strongly on the factor, and one has to find a good one. The
# best of these is 2, near the gain of 5/3. With batch norm very different factors end close
# together. At its best factor the network without batch norm is even ahead: batch norm buys
# tolerance, not a lower loss.
#
# ## What batch norm costs
#
# With batch norm the output for one example depends on the other examples of its batch. For a
# single name there is no batch. So the model keeps *running statistics*: averages of mean and
# variance over the training batches. They replace the statistics of the batch.
#
# These averages are not parameters: no gradient changes them. In JAX they cannot be updated in the
# background, so the model returns them, and the training step carries them in the state:

# %%
network = deep["with batch norm"]
print("the state has", list(network.state.variables))
for path, leaf in jax.tree_util.tree_leaves_with_path(network.state.model_state)[:2]:
    print(jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape)

apply = partial(network.model.apply, train=True, mutable=["batch_stats"])
logits, updated = jax.eval_shape(apply, network.state.variables, windows)
print("applied with train=True, the model returns the logits and new", list(updated))

# %% [markdown]
# The alternative to running averages is to compute the statistics once, after training, over the
# whole training split. Both give nearly the same loss; the table below calls the second
# *calibrated*.
#
# ## The numbers
#
# The lecture's six runs and one with calibrated batch norm, repeated by
# `python -m benchmarks.lectures`, and the losses that the course published. Train and dev are
# losses in nats per character on the course's list.

# %%
results = json.loads((published.OUT / "results.json").read_text("utf-8"))["results"]
rows = ["mlp", "small_output", "small", "mlp_scaled", "mlp_batchnorm", "calibrated"]
rows += ["deep_batchnorm"]
Markdown(published.as_table({name: results[name] for name in rows}))

# %% [markdown]
# In a network of one hidden layer, batch norm brings no gain over good initial values, and it makes
# training slower. What it buys is tolerance: a deep network trains well with it even if nobody has
# tuned its initial values.
#
# ## What to take away
#
# - Check the loss of the untrained model against ln V.
# - Look at the distribution of activations and gradients in every layer, not only at the loss.
# - State that is not a parameter, such as running statistics, goes in and comes out of a pure
#   function like everything else.
#
# `--config.train.diagnose_every=500` records these distributions during any training, and
# `python -m makemore_jax.plots` draws them. Notebook 5 computes every gradient of such a network by
# hand.
#
# ## Exercises
#
# 1. Set all weights and biases of the network to 0 and train it. Which of its parameters change,
#    and why not the others?
# 2. After training with batch norm, compute a weight and a bias of each linear layer that give the
#    same outputs without it ("folding"). Compare both networks on the dev split.
# 3. Replace tanh by `jax.nn.relu` in `look_inside`. What is a saturated unit now, and how many are
#    there with each set of initial values?
