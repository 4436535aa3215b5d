"""The matrix product of a linear layer.

Its gradient is faster for tall kernels on CPU, and compiles faster on TPU.
"""

import jax
from jax import Array


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """Return x @ kernel. (N, n_in), (n_in, n_out) -> (N, n_out)

    For n_in > n_out compute the gradient of the kernel as (dy^T x)^T: 62 instead of 109 us on
    XLA:CPU for 128 tokens and a kernel of 256 x 64. Without this kernel the training step of the
    cnn takes 1.42 times as long on one AMD EPYC, and equally long on another.
    """
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    is_tall = kernel.shape[0] > kernel.shape[1]
    # Without the barrier XLA rewrites dy^T x as x^T dy. XLA:TPU would also fuse a copy of the
    # product into each operation that reads the gradient, and compile each copy.
    product = jax.lax.optimization_barrier(dy.T @ x if is_tall else x.T @ dy)
    return dy @ kernel.T, product.T if is_tall else product


matmul.defvjp(_forward, _backward)
