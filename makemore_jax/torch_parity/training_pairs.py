"""The pairs of training, by subject: layers, the step, randomness, data, weights, compilation."""

from typing import NamedTuple

from makemore_jax.torch_parity.pairs import IDIOMS, Bounds, Code, Pair

TORCH_STEP = "torch_parity/step.py"
STEP = "training/step.py"
EXACT = Bounds(output=0.0, gradient=None)


class Topic(NamedTuple):
    """Pairs about one subject of training."""

    title: str
    about: str
    pairs: tuple[Pair, ...]


TOPICS = (
    Topic(
        "Layers",
        "All families are built from three layers. Flax has these layers too, but with other "
        "initial values and another epsilon, so this project has its own.",
        (
            Pair(
                "Linear layer, embedding, layer norm",
                (Code(IDIOMS, ("Layers",)),),
                (
                    Code("models/layers.py", ("Linear", "embedding", "LayerNorm")),
                    Code("kernels/plain.py", ("standardize",)),
                ),
                "`torch.nn.Linear` draws weight and bias uniformly within 1 / sqrt(n_in); "
                "`flax.linen.Dense` draws a truncated normal and a bias of 0. Its kernel (n_in, "
                "n_out) is the transpose of PyTorch's weight. `torch.nn.Embedding` is N(0, 1), "
                "flax's N(0, 1 / C). `torch.nn.LayerNorm` adds 1e-5 to the variance, flax's 1e-6.",
                measured_as="layers",
            ),
        ),
    ),
    Topic(
        "The training step",
        "PyTorch changes the model and the optimizer in place: `zero_grad`, `backward`, `step`. In "
        "JAX the step is a pure function from a state to the next state: `value_and_grad`, "
        "`update`.",
        (
            Pair(
                "Loss",
                (Code(TORCH_STEP, ("torch_mean_loss",)),),
                (Code("losses.py", ("token_losses", "mean_loss")),),
                "The loss is the mean over all targets that are not -1, the padding.",
                measured_as="loss",
            ),
            Pair(
                "Step",
                (Code(TORCH_STEP, ("make_torch_step",)),),
                (Code(STEP, ("sum_loss", "gradients", "make_train_step")),),
                "Both sides train a GRU on a few names, with the same batches. The gradient is "
                "that of the first batch.",
                measured_as="step",
                value="losses of ten steps",
            ),
            Pair(
                "Optimizer",
                (Code(TORCH_STEP, ("make_torch_optimizer",)),),
                (Code("training/optimizer.py", ("make_optimizer", "_is_matrix")),),
                "`optimizer.update` returns the next optimizer state and the change of the "
                "parameters. AdamW decays every parameter on both sides, unless "
                "`optimizer.decay` is `matrices`.",
                Bounds(gradient=None),
                measured_as="optimizer",
                value="parameters after ten steps of AdamW and of SGD with the same gradients",
            ),
            Pair(
                "Learning rate",
                (Code(TORCH_STEP, ("make_torch_schedule",)),),
                (Code("training/optimizer.py", ("make_schedule",)),),
                "A scheduler counts the calls of its `step`. A schedule in JAX is a function of "
                "the step number.",
                Bounds(gradient=None),
                measured_as="schedule",
                value="learning rates of a hundred steps",
            ),
        ),
    ),
    Topic(
        "Randomness",
        "PyTorch has generators with a state, which every draw advances. JAX has keys, which never "
        "change: a function of the same key returns the same numbers.",
        (
            Pair(
                "Seeds",
                (Code(IDIOMS, ("shuffled",)),),
                (Code("original_splits.py", ("torch_randperm",)),),
                "Equal seeds give different numbers in PyTorch and JAX. To have makemore's split "
                "of the data, this project computes PyTorch's permutation without torch.",
                EXACT,
                measured_as="permutation",
                value="permutation",
            ),
            Pair(
                "Resuming",
                (Code(IDIOMS, ("draw_from",)),),
                (
                    Code(STEP, ("step_keys",)),
                    Code("data/__init__.py", ("draw_indices",)),
                ),
                "A PyTorch program must save the state of its generator to continue with the same "
                "batches. Here the key of a step is `fold_in(key, step)`, so step 5 draws the same "
                "batch whether or not steps 0 to 4 ran before it. On each side, the batches of a "
                "resumed run are compared with those of an uninterrupted one.",
                EXACT,
                measured_as="resuming",
                value="indices of the batches",
            ),
        ),
    ),
    Topic(
        "Data",
        "A DataLoader is an iterator with a state, on the host. Here the data is on the device as "
        "integers, and a batch is a function of a key inside the compiled step.",
        (
            Pair(
                "Batches",
                (Code(IDIOMS, ("CharDataset", "make_loader")),),
                (
                    Code("data/lines.py", ("Lines.size", "Lines.take")),
                    Code("data/__init__.py", ("draw_indices", "draw")),
                ),
                "The same lines give the same inputs, padded with 0, and targets, padded with -1.",
                EXACT,
                measured_as="batches",
                value="inputs and targets",
            ),
        ),
    ),
    Topic(
        "Weights",
        "A `state_dict` is a flat dictionary of tensors by name. In JAX the parameters are a "
        "nested dictionary, called a tree. `jax.tree.map` applies a function to each array of it.",
        (
            Pair(
                "Conversion",
                (Code("torch_parity/weights.py", ("to_torch",)),),
                (Code("torch_parity/weights.py", ("torch_name", "from_torch")),),
                "`to_torch` makes a `state_dict` of a tree, `from_torch` a tree of a `state_dict`. "
                "The path to an array in the tree determines its name in PyTorch. The matrices of "
                "linear layers are transposed. Nothing is computed, so a conversion in both "
                "directions keeps every bit.",
                EXACT,
                measured_as="round_trip",
                value="parameters of all families",
            ),
        ),
    ),
    Topic(
        "Compilation",
        "`torch.compile` compiles the model, and Python runs between the steps. `jit` and `scan` "
        "compile a whole loop of training steps into one program.",
        (
            Pair(
                "Many steps",
                (Code(IDIOMS, ("train_compiled",)),),
                (Code(STEP, ("make_train_steps",)),),
                "Both sides take ten steps with a GRU. torch.compile uses its backend aot_eager, "
                "which needs no C++ compiler.",
                Bounds(gradient=None),
                measured_as="many_steps",
                value="losses of ten steps",
            ),
            Pair(
                "The program of train.py, on one device",
                (Code(TORCH_STEP, ("make_torch_step",)),),
                (Code("assemble/programs.py", ("make_gradient_fn", "compile_steps")),),
                "`train.py` wraps the gradient function of the step: to pack several short lines "
                "into one row, to split a batch into microbatches (gradient accumulation), and to "
                "split it over devices. Here it trains a transformer in float32.",
                Bounds(output=1e-3, gradient=1e-4),
                measured_as="on_one_device",
                value="losses of ten steps",
            ),
            Pair(
                "The program of train.py, on two devices",
                (Code(TORCH_STEP, ("make_torch_step",)),),
                (Code("parallel/gradients.py", ("over_devices", "all_reduce_as_vector")),),
                "Each device computes the gradients of its half of the batch, as sums. One "
                "all-reduce adds them.",
                Bounds(output=1e-3, gradient=1e-4),
                measured_as="on_two_devices",
                value="losses of ten steps",
            ),
        ),
    ),
)
