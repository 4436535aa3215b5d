# %% [markdown]
# # 2. Autograd: where gradients come from
#
# Notebook 1 called `jax.grad` without asking how it works. This notebook opens the box: it computes
# with single numbers, remembers how each number was computed, and applies the chain rule backward.
# Then it trains a small network with these gradients, and compares every number with `jax.grad`.
#
# It follows the course's first lecture,
# [The spelled-out intro to neural networks and backpropagation](https://youtu.be/VMj-3S1tku0),
# which builds micrograd. You need to know what a derivative is.

# %% tags=["setup"]
# set-up

# %%
import inspect

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Markdown

from makemore_jax.lectures import autograd
from makemore_jax.lectures.autograd import XS, YS, Value, grads
from makemore_jax.lectures.autograd_picture import svg

# By default, TPUs and some GPUs multiply with less precision than float32.
jax.config.update("jax_default_matmul_precision", "highest")

# %% [markdown]
# `steps` is the number of gradient descent steps for the small network at the end.

# %% tags=["parameters"]
steps = 200

# %% [markdown]
# ## A derivative is a slope
#
# Move an input by a little and see how far the output moves. The ratio is the derivative.


# %%
def f(x):
    return 3 * x**2 - 4 * x + 5


h = 1e-6
print("slope at 3, measured:", (f(3 + h) - f(3)) / h)
print("slope at 3, jax.grad:", jax.grad(f)(3.0))

# %% [markdown]
# Measuring works, but a network has thousands of inputs, and each would need its own run. The chain
# rule gives all slopes from one backward pass.
#
# ## A number that remembers
#
# A `Value` holds a number, the operation that computed it, the values it was computed from, and the
# derivative with respect to each of them.

# %%
a = Value(2.0, "a")
b = Value(-3.0, "b")
c = (a * b).named("c")
d = (c + 10).named("d")
print(d)
print("operation:", d.op, " derivatives with respect to its inputs:", d.derivatives)

# %% [markdown]
# A `Value` never changes. So it cannot collect a gradient in an attribute, as PyTorch's tensors do.
# Instead `grads` is a function: it takes an output and returns a dictionary with the gradient of
# each value that the output depends on. `jax.grad` works in the same style.

# %%
gradients = grads(d)
print({node.label: gradient for node, gradient in gradients.items() if node.label})

# %% [markdown]
# The graph shows all of it. Read `data` from left to right: that is the computation. Read `grad`
# from right to left: the output has gradient 1, and each operation passes its gradient back to its
# inputs, multiplied by its own derivative.
#
# - `+` passes the gradient on unchanged.
# - `*` passes to each input the gradient times the other input.

# %%
HTML(svg(gradients))

# %% [markdown]
# The backward pass is short. It visits the values in reverse order, so that the gradient of a value
# is complete before it is passed on. A value that is used twice receives two contributions, and
# they add up.

# %%
print(inspect.getsource(grads))

# %%
x = Value(3.0, "x")
print("x + x:", grads(x + x)[x])
print("x * x:", grads(x * x)[x])

# %% [markdown]
# ## A neuron
#
# A neuron multiplies each input by a weight, adds a bias, and squashes the sum with tanh. This one
# has two inputs; its bias is chosen so that the gradients are round numbers.

# %%
neuron = autograd.lecture_neuron()
HTML(svg(grads(neuron)))

# %% [markdown]
# `tanh` is a single operation here. Written with `exp` instead, the graph has more nodes, and the
# gradients of the inputs stay the same. An operation may be as large as you like, as long as you
# know its derivative. (Scroll to the right to see the whole graph.)

# %%
HTML(svg(grads(autograd.lecture_neuron(tanh_by_exp=True))))

# %% [markdown]
# Now the same neuron in JAX. `argnums` selects the arguments to differentiate with respect to.


# %%
def neuron_in_jax(x1, x2, w1, w2, b):
    return jnp.tanh(x1 * w1 + x2 * w2 + b)


names = ["x1", "x2", "w1", "w2", "b"]
by_label = {node.label: (node.data, gradient) for node, gradient in grads(neuron).items()}
point = [by_label[name][0] for name in names]
by_jax = jax.grad(neuron_in_jax, argnums=range(5))(*point)

rows = [
    f"| {name} | {by_label[name][0]:.4f} | {by_label[name][1]:.4f} | {gradient:.4f} |"
    for name, gradient in zip(names, by_jax, strict=True)
]
Markdown("| | data | gradient by `grads` | by `jax.grad` |\n|---|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# The lecture has the same numbers: an output of 0.7071, and gradients of -1.5, 1.0, 0.5 and 0.
#
# How does JAX know the graph? It calls your function with *tracers*, objects that stand for the
# inputs and record every operation. `jax.make_jaxpr` shows the record. `jax.grad` makes a new
# record in each call. `jax.jit` makes one in the first call, and later calls only run the compiled
# record. This is why a JAX function must be pure: only what is recorded happens again.

# %%
jax.make_jaxpr(neuron_in_jax)(*point)

# %% [markdown]
# ## A network
#
# Layers of neurons make a multi-layer perceptron. This one has 3 inputs, two layers of 4 neurons
# and one output. The task is tiny: four points, each with a target of 1 or -1.

# %%
for x, y in zip(XS, YS, strict=True):
    print(x, "->", y)

params = autograd.init_mlp(jax.random.key(0), [3, 4, 4, 1])
print(len(jax.tree.leaves(params)), "parameters")

# %% [markdown]
# The loss is the sum of the squared errors. Its graph contains every addition and multiplication
# for all four points:

# %%
loss = autograd.squared_error(jax.tree.map(Value, params), XS, YS)
print(f"loss {loss.data:.4f}, from a graph of {len(autograd.nodes(loss))} nodes")

# %% [markdown]
# `train_step` computes the loss and, with one backward pass, all gradients. It returns new
# parameters. The old ones are still there, unchanged. No gradient has to be reset to zero before
# the next step, which is easy to forget in PyTorch.

# %%
print(inspect.getsource(autograd.train_step))

# %%
trained, losses = autograd.train(params, XS, YS, steps, learning_rate=0.1)
for x, y in zip(XS, YS, strict=True):
    print(f"target {y:4.1f}, prediction {autograd.mlp(trained, x)[0].data:7.4f}")

# %% [markdown]
# ## The same network on arrays
#
# One node per number is good for learning and slow for work. JAX's operations take whole arrays, so
# a layer is one matrix product. The functions below are written for a single point;
# `jax.vmap(..., in_axes=(None, 0))` applies them to all points at once with the same parameters.


# %%
def to_arrays(layers):
    """Turn lists of neurons into pairs of arrays, weights (n_out, n_in) and bias (n_out,)."""
    return [
        (jnp.array([n.weights for n in layer]), jnp.array([n.bias for n in layer]))
        for layer in layers
    ]


def mlp(layers, x):
    for weights, bias in layers:
        x = jnp.tanh(weights @ x + bias)
    return x[0]


def squared_error(layers, xs, ys):
    outputs = jax.vmap(mlp, in_axes=(None, 0))(layers, xs)  # (4,)
    return ((outputs - ys) ** 2).sum()


# %% [markdown]
# `jax.value_and_grad` returns the loss and a gradient for every array, in the same nested lists as
# the parameters. `jax.tree.map` walks through both and applies the update. `jax.lax.scan` repeats
# the step, and `jax.jit` compiles all of it into one program.


# %%
@jax.jit
def train(layers, xs, ys):
    def step(layers, _):
        loss, gradients = jax.value_and_grad(squared_error)(layers, xs, ys)
        return jax.tree.map(lambda p, g: p - 0.1 * g, layers, gradients), loss

    return jax.lax.scan(step, layers, length=steps)


_, losses_in_jax = train(to_arrays(params), jnp.array(XS), jnp.array(YS))

plt.figure(figsize=(6.25, 3.2), layout="constrained")
plt.semilogy(losses, linewidth=4, alpha=0.4, label="Value, one number at a time")
plt.semilogy(losses_in_jax, "k--", linewidth=1, label="JAX, whole arrays")
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()
print(f"largest difference: {np.abs(np.array(losses) - np.asarray(losses_in_jax)).max():.1e}")

# %% [markdown]
# The two curves agree up to rounding: JAX computes in 32-bit floats, Python in 64-bit floats.
#
# ## What to take away
#
# - A gradient is the chain rule, applied backward through a record of the computation.
# - If nothing is changed in place, a gradient is a return value, and there is nothing to reset.
# - `jax.grad` records operations on arrays. Otherwise it does what `grads` does.
#
# `python -m makemore_jax.lectures.autograd` prints these numbers and writes the neuron's graph as
# an SVG file. Next, notebook 3 uses gradients to train a network with more context than a bigram.
#
# ## Exercises
#
# 1. Write a function `sin` that takes a `Value` and returns one, with its derivative. Compare the
#    result of `grads` with `jax.grad(jnp.sin)`.
# 2. Write softmax and the negative log likelihood with `Value`, and compute the gradient with
#    respect to the logits. Notebook 5 derives a short formula for it.
# 3. Compute a second derivative: `jax.grad(jax.grad(f))(3.0)`. Why can `grads` not do this, and
#    what would each `Value` have to remember?
