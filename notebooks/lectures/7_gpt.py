# %% [markdown]
# # 7. Attention and GPT
#
# The networks so far look at a fixed window in a fixed way. In this notebook each position decides
# for itself which earlier positions matter: that is *attention*. We build it in four steps, from a
# plain average to self-attention, and then train a small GPT that writes Shakespeare.
#
# It follows the course's lecture
# [Let's build GPT: from scratch, in code, spelled out](https://youtu.be/kCc8FmEb1nY). The
# architecture is from [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762).

# %% tags=["setup"]
# set-up

# %%
import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from configs.gpt_lecture import get_config
from makemore_jax import assemble
from makemore_jax.cli import resources
from makemore_jax.download import download
from makemore_jax.errors import UserError
from makemore_jax.lectures import attention, experiment, pictures
from makemore_jax.models.transformer import Block

# %% [markdown]
# `steps` is the number of training steps for the GPT. The lecture takes 5,000.

# %% tags=["parameters"]
steps = 3_000

# %% [markdown]
# ## 1 to 3: an average of the past
#
# We have a sequence of T vectors. Every position should learn something from the positions before
# it. It must not look ahead, since the next character is what it has to predict. The simplest way
# is the average of all vectors up to and including its own.
#
# In the shapes, B is the batch, T the time, C the channels.

# %%
data_key, head_key, score_key, train_key, sample_key = jax.random.split(jax.random.key(0), 5)
x = jax.random.normal(data_key, (1, 5, 2))  # (B, T, C)

by_loop = attention.average_by_loop(x)
by_product = attention.average_by_product(x)
by_softmax = attention.average_by_softmax(x)
for y in (by_product, by_softmax):
    print(f"largest difference from the loop: {jnp.abs(y - by_loop).max():.1e}")

# %% [markdown]
# The three functions give the same result in different ways:
#
# 1. a loop over positions;
# 2. one product with a lower triangular matrix whose rows add up to 1;
# 3. the same matrix, made by softmax: equal scores for the past, minus infinity for the future.

# %%
functions = (attention.average_by_loop, attention.average_by_product, attention.average_by_softmax)
print("\n\n".join(map(inspect.getsource, functions)))

# %% [markdown]
# The third form is the important one. Scores can be anything, and softmax turns them into weights
# that add up to 1. If the scores depend on the data, the average becomes a choice.
#
# ## 4: self-attention
#
# Each position computes three vectors from its own: a *query* (what am I looking for?), a *key*
# (what do I contain?) and a *value* (what do I pass on?). The score of a pair of positions is the
# product of the query of one with the key of the other.
#
# `cross_attention` has the formula. It reads keys and values from a second sequence, as a
# translator reads the text to translate. Self-attention is the case in which both sequences are x.

# %%
functions = (attention.attention_weights, attention.cross_attention, attention.self_attention)
print("\n\n".join(map(inspect.getsource, functions)))

# %% [markdown]
# Compare the weights. In the first table they are the same for any input. In the second they come
# from the data. The third has no mask, so every position sees the whole sequence: good for
# reading a text, useless for predicting it.

# %%
head = attention.init_head(head_key, n_embd=2, head_size=2)
mask = attention.causal_mask(5)
queries, keys = x @ head.query, x @ head.key
tables = {
    "average": attention.average_by_softmax(jnp.eye(5)[None])[0],
    "self-attention": attention.attention_weights(queries, keys, mask)[0],
    "without a mask": attention.attention_weights(queries, keys)[0],
}
pictures.attention_weights({title: np.asarray(table) for title, table in tables.items()})

# %% [markdown]
# The mask can be tested. If position 2 cannot see position 4, the derivative of its output with
# respect to that input is 0. `jax.jacobian` gives all derivatives at once:

# %%
jacobian = jax.jacobian(lambda x: attention.self_attention(head, x, mask))(x)
influence = jnp.abs(jacobian).sum(axis=(0, 2, 3, 5))  # (T, T): output position, input position
print("the future has no influence:", bool((jnp.triu(influence, k=1) == 0).all()))

# %% [markdown]
# ### Why the scores are divided
#
# A score is a sum of `head_size` products. If queries and keys have variance 1, the score has
# variance `head_size`. Softmax of large numbers puts all weight on a single key, and then the
# gradient is almost 0, as in a saturated tanh. Dividing by the square root of `head_size` keeps the
# variance at 1.

# %%
measured = attention.compare_scaling(score_key, head_sizes=(1, 16, 256))
pictures.score_scaling(list(measured), attention.curves(measured))

# %% [markdown]
# ### Several heads
#
# A single head can look for one kind of thing. A layer has several, and puts their outputs side by
# side. `self_attention` is written for one head; `jax.vmap` runs it for many, each with its own
# parameters.

# %%
init_heads = jax.vmap(lambda key: attention.init_head(key, n_embd=8, head_size=2))
heads = init_heads(jax.random.split(head_key, 4))  # 4 heads
wide = jax.random.normal(data_key, (1, 5, 8))
outputs = jax.vmap(attention.self_attention, in_axes=(0, None, None))(heads, wide, mask)
print("each head:", outputs.shape[1:], " side by side:", jnp.concatenate(outputs, axis=-1).shape)

# %% [markdown]
# ## From attention to GPT
#
# A GPT is a stack of equal blocks. In each block the positions first exchange information by
# attention. Then a small MLP processes each position on its own. Two details make deep stacks
# trainable:
#
# - **Residual connections.** A block adds its result to its input, so gradients have a direct way
#   from the loss to every block.
# - **LayerNorm.** It normalizes each vector on its own. Unlike batch norm it does not look at other
#   examples. Vaswani et al. normalize after each part; this block, like the lecture, normalizes
#   before attention and before the MLP.
#
# In the code below, `positions` is None, except if `train.py` packs several lines into a row.
# `astype` only matters for computations in bfloat16.

# %%
print(inspect.getsource(Block.__call__))

# %% [markdown]
# Attention itself has no notion of order. So the input of the first block is the sum of two
# embeddings: one for the character (`wte`) and one for its position (`wpe`).
# `makemore_jax/models/transformer.py` has the whole model.
#
# ## The data
#
# Tiny Shakespeare is one text of 1.1 million characters. An example is a random crop of
# `block_size` characters, and the targets are the same characters shifted by one. So one crop of 32
# characters trains 32 predictions, with contexts from 1 to 32 characters.
#
# The next cell downloads the text if it is missing. Without an internet connection it uses the
# list of names as one long text.

# %%
config = get_config()
config.model.layer_loop = "unroll"  # each layer has its own module, so its outputs can be captured
try:
    config.data.path = str(download("shakespeare"))
except UserError as error:
    print(error)
    config.data.path = experiment.names_file()
text_name = "Shakespeare" if "shakespeare" in Path(config.data.path).name else "names"

# %% [markdown]
# The lecture's GPT has 10.8 million parameters and needs a GPU. This notebook trains a smaller one,
# for two CPU cores: 2 layers, 4 heads, 96 channels, a context of 32 characters, no dropout. On a
# GPU or TPU, skip the next cell and set `steps = 5_000` to train the lecture's GPT, with 6 heads.

# %%
config.data.block_size = 32
config.model.n_layer, config.model.n_head, config.model.n_embd = 2, 4, 96
config.model.dropout = 0.0
config.optimizer.learning_rate = 1e-3
config.train.batch_size = 16

# %%
gpt = experiment.prepare(config)
print(gpt.dataset.describe_splits())
num_params = sum(p.size for p in jax.tree.leaves(gpt.state.params))
print(f"{num_params:,} parameters, {gpt.dataset.vocab.size} different characters")

# %% [markdown]
# ## Training

# %%
gpt, losses = experiment.train(gpt, steps, train_key)
pictures.loss_curves({"GPT": losses})

# %% [markdown]
# The loss on the dev split, here on its first 1,000 crops:

# %%
dev_loss = experiment.evaluate(gpt, "dev", max_examples=1_000)
print(f"dev loss after {steps:,} steps: {dev_loss:.4f}")
print(f"a uniform guess: {np.log(gpt.dataset.vocab.size):.4f}")

# %% [markdown]
# ## Text
#
# The model writes one character at a time: it predicts a distribution, a character is drawn from
# it, and the context moves on by one. We let it continue the first characters of the dev split.

# %%
inputs, *_ = gpt.dataset.splits["dev"].take(jnp.array([0]))
prompt = "".join(gpt.dataset.vocab.chars[token] for token in np.asarray(inputs[0]))
lm = experiment.language_model(gpt)._replace(max_len=500)
print(assemble.sample(lm, sample_key, num=1, prompt=prompt)[0].text)

# %% [markdown]
# ## Where does it look?
#
# The picture shows the four heads of the first block on a line of text: row by row, from which
# characters (columns) each position takes its information. The weights come from the function
# `attention_weights` above, applied to the queries and keys of the trained model.

# %%
line = gpt.dataset.vocab.chars[0] + "the king is dead"
line = "".join(char for char in line if not gpt.dataset.vocab.unknown(char))
tokens = jnp.array([gpt.dataset.vocab.encode(line)])  # (1, T)


@jax.jit
def first_block_weights(variables, tokens):
    """Return the attention weights of the first block, one table per head. (nh, T, T)"""
    _, captured = gpt.model.apply(
        variables,
        tokens,
        capture_intermediates=lambda module, _: module.name == "c_attn",
        mutable=["intermediates"],
    )
    qkv = captured["intermediates"]["h_0"]["attn"]["c_attn"]["__call__"][0][0]  # (T, 3 C)
    q, k, _ = jnp.moveaxis(qkv.reshape(len(qkv), 3, config.model.n_head, -1), 0, 2)
    return attention.attention_weights(q, k, attention.causal_mask(len(qkv)))


weights = first_block_weights(gpt.state.variables, tokens)
labels = [char if char.isprintable() and char != " " else "_" for char in line]
figure, axes = plt.subplots(2, 2, figsize=(6.25, 6.4), layout="constrained")
for i, ax in enumerate(axes.flat):
    ax.imshow(weights[i], cmap="Blues", vmin=0, vmax=1)
    ax.set_title(f"head {i + 1}", fontsize=9)
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.tick_params(length=0)
plt.show()

# %% [markdown]
# ## The numbers
#
# Two runs of this kind have published losses. `python -m benchmarks.shakespeare` measures the
# first on two CPU cores. The second needs a GPU or TPU; the project has no measurement of it yet.
# Losses are in nats per character on the last tenth of the text. For this notebook they are on the
# first 32,000 characters of that tenth. Losses on different texts can't be compared.

# %%
file = resources.FOLDER / "docs" / "shakespeare" / "results.json"
losses_by_rate = json.loads(file.read_text("utf-8"))["dev_losses"]
slow, fast = (f"{losses_by_rate[key]['2000']:.4f}" for key in ("1e-3", "4e-3"))
laptop = "python train.py --config configs/shakespeare_cpu.py"
rate = "--config.optimizer.learning_rate=1e-3"
lecture = "python train.py --config configs/gpt_lecture.py"
Markdown(f"""
| model | text | command | here | published |
|---|---|---|---|---|
| this notebook, {num_params:,} parameters | {text_name} | {steps:,} steps | {dev_loss:.4f} | |
| nanoGPT's settings for a laptop | Shakespeare | `{laptop} {rate}` | {slow} | 1.88 |
| the same with learning rate 4e-3 | Shakespeare | `{laptop}` | {fast} | |
| the lecture's GPT | Shakespeare | `{lecture}` | | 1.48 |
""")

# %% [markdown]
# ## What to take away
#
# - Attention is a weighted average whose weights come from the data.
# - The mask makes it a language model, the scaling keeps it trainable, several heads let it look
#   for several things.
# - A GPT repeats a block of attention, an MLP, residual connections and LayerNorm.
#
# This is the last lecture that the project follows. The course goes on with the tokenizer of GPT,
# which this project does not have: its tokens are characters. `notebooks/makemore.ipynb` trains a
# bigram table and a transformer with the project's own programs.
# `python train.py --config configs/gru.py` trains another model, and `--help` shows every setting.
# Notebook 8 takes a smaller GPT apart again, down to single numbers.
#
# ## Exercises
#
# 1. Remove the mask and train again (`Decoder.__call__` gets it from `kernels.causal_mask`). How
#    low is the loss, and what text does the model write? Why is that no contradiction?
# 2. Remove the embedding of positions (`wpe`). How much does the loss change?
# 3. Write the attention of all heads without `jax.vmap`, as one product with a head axis. Compare
#    it with `makemore_jax/kernels/plain.py`.
# 4. Train on names first and then on Shakespeare, and compare with training on Shakespeare only.
#    Encode the names with Shakespeare's vocabulary, which has all their characters.
