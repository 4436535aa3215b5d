# %% [markdown]
# # 1. Bigrams: a language model that counts
#
# A language model gives every possible next character a probability. The simplest one looks at a
# single character and knows how often each character followed it. This notebook builds that
# model twice: first by counting, then as a one-layer neural network trained by gradient descent.
# Both end at the same loss.
#
# It follows the course's second lecture,
# [The spelled-out intro to language modeling](https://youtu.be/PaCmpygFfXo). Basic Python and NumPy
# are enough to read it.

# %% tags=["setup"]
# set-up

# %%
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from makemore_jax.data.files import read
from makemore_jax.data.lines import split_lines
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.lectures import bigram_counts, pictures
from makemore_jax.lectures.experiment import names_file

# %% [markdown]
# `steps` is the number of gradient descent steps for the neural network in the second half.

# %% tags=["parameters"]
steps = 10_000

# %% [markdown]
# ## The data
#
# The data is a text file with one name per line. The course uses a list of 32,033 names, which
# `names_file` downloads. Without an internet connection, it returns the project's own shorter list,
# `names.txt`. Published numbers belong to the course's list.

# %%
path = names_file()
text, _ = read(path, "utf-8")
words = split_lines(text)
print(f"{len(words):,} names in {Path(path).name}, such as {', '.join(words[:5])}")
statistics = bigram_counts.statistics(words)
print(f"{statistics.shortest} to {statistics.longest} characters long")

# %% [markdown]
# A model works with integers, so every character gets a number. Number 0 is special: it stands
# before the first and after the last character of every name, and we print it as a dot. So `emma`
# has five pairs: `.e`, `em`, `mm`, `ma` and `a.`.

# %%
vocab = Vocab(statistics.chars)
symbols = bigram_counts.symbols(vocab)
print(vocab.size, "tokens:", " ".join(symbols))
print("emma ->", [0, *vocab.encode("emma"), 0])

# %% [markdown]
# ## Counting
#
# `counts[i, j]` is the number of times that character `j` follows character `i` in all names. Each
# cell of the picture shows a pair above its count. The first row shows how names begin, the first
# column how they end.

# %%
print(inspect.getsource(bigram_counts.count))

# %%
counts = bigram_counts.count(words, vocab)  # (V, V)
pictures.bigram_table(counts, symbols)

# %% [markdown]
# Divide each row by its sum, and row `i` becomes the distribution of the next character after `i`.
# That table of probabilities is the whole model.

# %%
probs = bigram_counts.probabilities(counts, smoothing=0)  # (V, V)
print("rows add up to", probs.sum(axis=1).round(6).min(), "...", probs.sum(axis=1).round(6).max())
plt.figure(figsize=(6.25, 2.4), layout="constrained")
plt.bar(symbols, probs[symbols.index("a")])
plt.title("what follows an a")
plt.show()

# %% [markdown]
# ## Sampling
#
# To make up a name, start with token 0, draw the next token from its row, continue from the row of
# the token just drawn, and stop at the next 0.
#
# JAX has no hidden random state. A random function takes a *key*, and the same key always gives the
# same numbers. For new numbers we derive new keys with `jax.random.split`, and use each key once.

# %%
init_key, sample_key = jax.random.split(jax.random.key(3407))

for name in bigram_counts.sample(sample_key, probs, vocab, num=10):
    print(name)

# %% [markdown]
# These are not good names. But compare them with names from a table in which every character is
# equally likely:

# %%
uniform = np.full_like(probs, 1 / vocab.size)
for name in bigram_counts.sample(sample_key, uniform, vocab, num=10)[:3]:
    print(name[:60])

# %% [markdown]
# ## How good is the model?
#
# A good model gives a high probability to the names that really occur. Their probability is the
# product of the probabilities of all their pairs. Such a product is tiny, so we take its logarithm,
# flip the sign and divide by the number of pairs. The result is the *negative log likelihood* in
# nats per character. Lower is better. Equal pairs have equal probabilities, so the function `nll`
# takes each pair once and multiplies by its count.
#
# A uniform guess among V tokens has loss ln V.

# %%
print(inspect.getsource(bigram_counts.nll))

# %%
losses = {
    "uniform guess": bigram_counts.nll(uniform, counts),
    "counted": bigram_counts.nll(probs, counts),
    "counted, 1 added to each count": bigram_counts.nll(
        bigram_counts.probabilities(counts, smoothing=1), counts
    ),
}
for title, loss in losses.items():
    print(f"{title:<32}{loss:.6f}")

# %% [markdown]
# Why add 1 to each count? A pair that never occurs has probability 0, so any name that contains it
# has an infinite loss. Adding a small number to each count, called *smoothing*, avoids that. It
# costs almost nothing here.

# %%
for smoothing in (0, 1):
    table = bigram_counts.probabilities(counts, smoothing)
    loss_of_jq = bigram_counts.nll(table, bigram_counts.count(["jq"], vocab))
    print(f"smoothing {smoothing}: the name jq has loss {loss_of_jq:.3f}")

# %% [markdown]
# ## The same model as a neural network
#
# Now suppose that we could not count. We start with a random matrix `W` of shape (V, V) and define
# the model as a function of it:
#
# 1. encode the current character as a one-hot vector,
# 2. multiply it by `W`, which picks one row of `W`: the *logits*,
# 3. apply softmax, which turns logits into probabilities.
#
# In JAX a model is a pure function. It takes the parameters as an argument, changes nothing, and
# depends on nothing else.

# %%
W = bigram_counts.init_weights(init_key, vocab.size)  # (V, V)
inputs = jnp.array([0, *vocab.encode("emma")])  # what the model sees
targets = jnp.array([*vocab.encode("emma"), 0])  # what it should predict

logits = bigram_counts.network(W, inputs)  # (5, V)
print("logits", logits.shape)
print("probability of each target:", jax.nn.softmax(logits)[jnp.arange(5), targets].round(3))

# %% [markdown]
# The loss is a pure function too, from `W` and the pairs of all names to a number. `jax.grad` turns
# it into another function, from the same arguments to the gradient with respect to the first one.
# The gradient has the shape of `W`. There is no tape, no `.backward()` and no `.grad` attribute to
# reset. `jax.jit` compiles a function at its first call.

# %%
first, second = np.nonzero(counts)
inputs = np.repeat(first, counts[first, second])  # the first character of every pair
targets = np.repeat(second, counts[first, second])  # the second one
print(f"{len(inputs):,} pairs")


@jax.jit
def loss(W, inputs, targets):
    log_probs = jax.nn.log_softmax(bigram_counts.network(W, inputs))  # (n, V)
    return -log_probs[jnp.arange(len(inputs)), targets].mean()


gradient = jax.grad(loss)(W, inputs, targets)
print(f"loss {loss(W, inputs, targets):.4f}, gradient of shape {gradient.shape}")

# %% [markdown]
# A training step returns new parameters instead of changing the old ones. This is gradient descent
# in one line:

# %%
learning_rate = 50.0
new_W = W - learning_rate * gradient
print(f"loss {loss(W, inputs, targets):.4f} -> {loss(new_W, inputs, targets):.4f}")

# %% [markdown]
# To train is to repeat this step. `bigram_counts.train` puts it into `jax.lax.scan`, a loop that
# JAX compiles together with its body, and returns the final `W` and the loss before each step. Its
# loss is the one above in a faster form: it computes one row of logits per character and weights
# them by the counts, as `nll` does.

# %%
print(inspect.getsource(bigram_counts.train.__wrapped__))

# %% [markdown]
# The learning rate matters. Since `train` is a pure function, `jax.vmap` can run it for several
# learning rates at once: one compiled program trains five networks.

# %%
rates = jnp.array([1.0, 3.0, 10.0, 30.0, 100.0])


def losses_for(rate):
    return bigram_counts.train(W, counts, min(steps, 100), rate)[1]


curves = jax.vmap(losses_for)(rates)  # (5, steps), at most 100 steps

plt.figure(figsize=(6.25, 3.2), layout="constrained")
plt.plot(curves.T, label=[f"learning rate {rate:g}" for rate in rates])
plt.axhline(losses["counted"], color="0.5", linestyle="--", label="counting")
plt.xlabel("step")
plt.ylabel("loss, nats per character")
plt.legend()
plt.show()

# %% [markdown]
# With enough steps the network arrives at the table that we counted. It cannot do better: for a
# model that sees one character, the counted frequencies are the best possible probabilities.

# %%
rate = 50.0  # the lecture's
W_trained, _ = bigram_counts.train(W, counts, steps, rate)
trained_loss = float(loss(W_trained, inputs, targets))
print(f"after {steps:,} steps at learning rate {rate:g}: {trained_loss:.6f}")
difference = np.abs(np.asarray(jax.nn.softmax(W_trained)) - probs).max()
print(f"largest difference in a probability: {difference:.4f}")

# %% [markdown]
# Smoothing has a counterpart as well. If the loss also contains the mean square of `W`, the weights
# are pulled toward 0, and logits of 0 mean equal probabilities. This is *L2 regularization*: the
# stronger it is, the smoother the distribution.

# %%
for strength in (0.0, 0.01, 0.1, 1.0):
    W_regularized, _ = bigram_counts.train(W, counts, steps, rate, strength)
    probability = jax.nn.softmax(W_regularized)[symbols.index("a")]
    print(
        f"strength {strength:<5g} loss {loss(W_regularized, inputs, targets):.4f}, "
        f"most likely character after a: {probability.max():.3f}"
    )

# %% [markdown]
# ## The numbers
#
# `python -m makemore_jax.lectures.bigram_counts --data data/makemore_names.txt` computes the same
# numbers without a notebook. The published ones are from the lecture, for the course's list.

# %%
Markdown(f"""
| model | loss in this notebook | published |
|---|---|---|
| counted | {losses["counted"]:.4f} | 2.454 |
| counted, 1 added to each count | {losses["counted, 1 added to each count"]:.4f} | 2.4546 |
| network, {steps:,} steps | {trained_loss:.4f} | |

Data: {len(words):,} names in {Path(path).name}.
""")

# %% [markdown]
# ## What to take away
#
# - A language model is a function from what came before to a distribution of what comes next.
# - The loss is the mean negative log likelihood. `jax.grad` differentiates it.
# - Parameters, keys and data are arguments. Nothing is stored in hidden places, so `jit`, `vmap`
#   and `scan` apply to any part.
#
# A table for two characters of context needs 27 times as many rows, and a table for three
# characters 729 times as many. Counting does not scale, but a network does: notebook 3 gives it
# more context. Before that, notebook 2 shows how a gradient is computed.
#
# ## Exercises
#
# 1. Build a trigram model: count how often each character follows each *pair* of characters. How
#    much lower is its loss, and how many of its counts are 0?
# 2. Count on 80% of the names and compute the loss on the rest. Which `smoothing` is the best there
#    for bigrams, and which for trigrams? (`jax.vmap` can try many values at once.)
# 3. Replace the one-hot product in `bigram_counts.network` by `W[inputs]`. Show that the loss and
#    the gradient stay the same.
