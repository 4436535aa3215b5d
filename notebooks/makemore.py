# %% [markdown]
# # makemore in JAX
#
# Give makemore a file with one name per line, and it makes up more names like them. In this
# notebook you train two character-level language models: a bigram table and a small GPT. You sample
# from them, score names with them, and look inside.
#
# Everything here is functional. A model is a pure function of its parameters. A training step is a
# pure function from one state to the next. Every random number comes from an explicit key.
#
# **Run all cells from top to bottom.** The notebook is written for the CPU, GPU and TPU runtimes of
# Colab, for Kaggle, and for a local Jupyter.

# %% [markdown]
# ## Set up
#
# The next cell finds the project: the checkout that contains this notebook, an uploaded archive
# (`makemore_jax*.zip` or `.tar.gz`), or a clone of {repository}. Then it installs what is missing,
# but keeps the jax, flax and PyTorch of the runtime.

# %% tags=["setup"]
# Replaced by setup_cell.py.

# %% tags=["parameters"]
steps = 10_000  # training steps of the transformer
save_to_drive = False  # True saves the runs on your Google Drive (Colab only)
tensorboard = True  # False skips TensorBoard at the end

# %%
import jax
import jax.numpy as jnp
import optax

from makemore_jax.notebook import cells, setup

runs = setup.runs_folder(save_to_drive)

# %% [markdown]
# ## The data
#
# `names.txt` has 22,490 given names. Each name becomes a sequence of tokens: one integer per
# character, and the token 0 before the first and after the last character. Shorter names are
# padded. A target of -1 is padding, which the loss ignores.
#
# A batch is drawn with an explicit key. The same key always draws the same batch.

# %%
from makemore_jax import data
from makemore_jax.assemble import create_model, load_data
from makemore_jax.config import Config

config = Config(seed=3407)
config.model.kind = "bigram"
dataset = load_data(config.data, config.seed)
print(dataset.describe_splits())
print(dataset.words["train"][:8])

init_key, data_key, dropout_key = jax.random.split(jax.random.key(config.seed), 3)
inputs, targets, _ = data.draw(dataset.splits["train"], data_key, 4)
print("inputs", inputs.shape)
print(inputs)
print("targets")
print(targets)

# %% [markdown]
# ## A model is a pure function
#
# The simplest model is a table. It predicts the next character from the current one alone.
# `model.init` makes the parameters, a tree of arrays. `model.apply` computes the logits from
# parameters and tokens, and remembers nothing. Before training, the loss is close to ln 27 = 3.30,
# the cost of guessing among 27 tokens.

# %%
from makemore_jax.losses import mean_loss

model = create_model(config.model, dataset.vocab.size, dataset.block_size)
variables = model.init(init_key, inputs)
print(jax.tree.map(jnp.shape, variables))

logits = model.apply(variables, inputs)  # (B, T) -> (B, T, V)
print("logits", logits.shape, "loss", mean_loss(logits, targets))

# %% [markdown]
# ## A training step is a pure function, too
#
# The state holds everything that changes: the parameters, the optimizer state, and the number of
# the step. A step takes a state, the data and keys. It draws a batch and returns the next state. It
# does not change the old state, so the same step from the same state gives the same result, bit for
# bit. This is the whole step. `gradient_fn` calls `jax.value_and_grad` on the loss of the batch.

# %%
import inspect

from makemore_jax.training.state import create
from makemore_jax.training.step import gradients, make_train_step

print(inspect.getsource(make_train_step))

# %%
optimizer = optax.adamw(1e-2)
state = create(model, optimizer, init_key, dataset.block_size)
train_step = jax.jit(make_train_step(gradients(model), optimizer, batch_size=4))

split = dataset.splits["train"]
keys = jax.random.split(dropout_key)  # for batches and for dropout
next_state, metrics = train_step(state, split, keys)
again, _ = train_step(state, split, keys)
print("step", int(state.step), "->", int(next_state.step), "with loss", metrics["train_loss"])
print("the same result twice:", jax.tree.all(jax.tree.map(jnp.array_equal, next_state, again)))

# %% [markdown]
# ## Train the bigram model
#
# `assemble.train` repeats this step, many steps in one compiled call. It evaluates on the dev
# split, draws samples and saves the state. A working directory contains everything that a run
# writes.

# %%
from makemore_jax import assemble

config.train.steps = 2 * steps
config.train.eval_every, config.train.sample_every = max(1, steps // 2), config.train.steps
summary = assemble.train(config, str(runs / "bigram"))

# %% [markdown]
# The model has learned the statistics of the data. Each row of these tables is a current character,
# and each column is the next one. The first table shows the predictions of the model, the second
# one the frequencies in the training split. `•` is the start and the end of a name.

# %%
from makemore_jax import workdir
from makemore_jax.data.lines import encode
from makemore_jax.plots import learned
from makemore_jax.report.bigrams import bigram_tables
from makemore_jax.report.collect import load_best_model
from makemore_jax.report.labels import token_labels

bigram, _ = load_best_model(runs / "bigram", workdir.read(runs / "bigram"))
tables = bigram_tables(bigram, encode(dataset.words["train"], bigram.vocab, bigram.max_len))
labels, largest = token_labels(bigram.vocab), float(tables.counted.max())
cells.figures(
    (learned.bigrams, tables.learned, labels, largest),
    (learned.bigrams, tables.counted, labels, largest),
    captions=["predicted", "counted"],
)

# %% [markdown]
# ## Train a transformer
#
# The small GPT has 4 layers and 204,480 parameters. JAX arranges devices in a grid, the *mesh*, and
# a batch is split over it. By default the mesh has all GPU or TPU devices: 1 on Colab's TPU, 8 on
# Kaggle's TPU v5e-8. On a CPU it has several cores only if the model is large enough to gain from
# them.

# %%
from makemore_jax.parallel.mesh import make_mesh

mesh = make_mesh(Config().mesh, batch_size=32, num_params=204_480)
print(f"{jax.device_count()} devices; a batch of 32 is split over {mesh.shape['data']}")

# %% [markdown]
# The programs of the project work in a notebook, too. This cell trains with `train.py` and
# simulates an interruption: after a third of the steps, it presses the Stop button for you. The
# training saves its state and ends. The kernel stays alive.

# %%
log_every = min(100, max(1, steps // 3))
command = f"train.py --config transformer --workdir {runs}/transformer"
command += f" --config.train.steps={steps} --config.train.log_every={log_every}"
print(command)

stop_button = cells.StopButton(runs / "transformer", steps // 3)
# %run {command}
stop_button.cancel()

# %% [markdown]
# The same command resumes the run. The keys of each step are computed from the seed and the number
# of the step (`jax.random.fold_in`), so the resumed run is bit-identical to one that was never
# interrupted.

# %%
# %run {command}

# %% [markdown]
# ## Loss curves

# %%
from makemore_jax.plots.comparison import draw_losses
from makemore_jax.report.comparison import read_runs

cells.figures((draw_losses, read_runs([runs / "bigram", runs / "transformer"])))

# %% [markdown]
# ## Sample
#
# `new` names are in no split of the data: the model has made them up. A lower temperature gives
# more common names, a higher one gives stranger ones.

# %%
# %run sample.py --workdir {runs}/transformer --num 20 --temperature 0.8

# %% [markdown]
# ## Score names
#
# The model gives a probability to every possible name. `score` returns its natural logarithm. Both
# models prefer `emma` to random letters, and the transformer tells them apart more clearly.

# %%
from makemore_jax import scoring

gpt, best_step = load_best_model(runs / "transformer", workdir.read(runs / "transformer"))
names = ["emma", "olivia", "karpathy", "xqzvk"]
scores = zip(names, scoring.score(bigram, names), scoring.score(gpt, names), strict=True)
print(f"{'ln p':<10} {'bigram':>8} {'transformer':>12}")
for name, by_bigram, by_gpt in scores:
    print(f"{name:<10} {by_bigram:8.2f} {by_gpt:12.2f}")

# %% [markdown]
# Which characters does the model not expect? The surprise of a character is -ln p, given the
# characters before it. The first number is the total of the name. `•` is the end.

# %%
cells.surprise(gpt, names)

# %% [markdown]
# ## Look at the attention
#
# Each row shows one position: how much it attends to itself and to each earlier character when it
# predicts the next.

# %%
from makemore_jax.report.attention import attention_weights
from makemore_jax.report.labels import char_label

name = "olivia"
(weights,) = attention_weights(gpt, [name])  # (layer, head, T, T)
chars = [char_label(char) for char in ("", *name)]
cells.figures(
    *((learned.attention, layer, chars) for layer in weights),
    captions=[f"layer {i}" for i in range(1, len(weights) + 1)],
    width=270,
)

# %% [markdown]
# ## Compare with PyTorch
#
# The project has the same models in PyTorch. `compare` trains both in lockstep, from the same
# weights and on the same batches. Accelerators multiply with less precision by default, so the
# comparison asks for the highest one.

# %%
from importlib.util import find_spec

if find_spec("torch"):
    from makemore_jax.torch_parity.compare import compare

    with jax.default_matmul_precision("highest"):
        result = compare(Config(), steps=10)
    for quantity, difference in result["differences"].items():
        if quantity in ("logits", "loss", "gradients"):
            print(f"{quantity} of the first batch: largest difference {difference:.1e}")
    print("step    JAX        PyTorch")
    losses = zip(result["curves"]["jax"], result["curves"]["torch"], strict=True)
    for step, (ours, theirs) in enumerate(losses, start=1):
        print(f"{step:4}    {ours:.7f}  {theirs:.7f}")
else:
    print("PyTorch is not installed")

# %% [markdown]
# ## TensorBoard
#
# Every run writes its losses, samples and settings for TensorBoard.

# %%
if tensorboard and find_spec("tensorboard"):
    get_ipython().run_line_magic("load_ext", "tensorboard")
    get_ipython().run_line_magic("tensorboard", f"--logdir {runs}")
else:
    print("TensorBoard is switched off, or not installed")

# %% [markdown]
# ## Your own data
#
# A file with one example per line is enough: names of cities, dinosaurs or drinks. Paths are
# relative to the folder of the project, which the first cell has entered. On Colab, run this in a
# new cell. It uploads the file to that folder, trains, and downloads a copy of the results:
#
# ```
# from google.colab import files
# uploaded = files.upload()  # for example cities.txt
#
# %run train.py --config transformer --config.data.path=cities.txt --workdir {runs}/cities
# %run sample.py --workdir {runs}/cities
#
# import shutil
# files.download(shutil.make_archive("cities", "zip", runs / "cities"))
# ```
#
# `%run train.py --config transformer --help` lists every setting. The other models are `bow`,
# `mlp`, `rnn`, `gru`, `lstm`, `cnn` and `modern`. The notebooks in `notebooks/lectures/` explain
# each step. The source of all of this is at {repository}.
