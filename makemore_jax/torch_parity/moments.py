"""Convert the state of torch.optim.AdamW to that of optax, and back.

PyTorch numbers the parameters in the order of its groups, and stores for each the number of steps
and both moments, as `exp_avg` and `exp_avg_sq`. optax has one number of steps and two trees, `mu`
and `nu`. nanoGPT has two groups: matrices, which decay, and the rest.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from makemore_jax.config import OptimizerConfig
from makemore_jax.errors import UserError

# What optax.adamw computes. Other options of torch.optim.AdamW change the update.
REQUIRED = {"eps": 1e-8, "amsgrad": False, "maximize": False}


def optimizer_fields(state_dict: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the fields of the config that the groups determine, by dotted name.

    Raise UserError if the state is not AdamW's, or if its groups are neither makemore's nor
    nanoGPT's.
    """
    groups = state_dict.get("param_groups")
    is_complete = isinstance(groups, list) and all(
        isinstance(group, dict) and {"lr", "betas", "weight_decay", "params"} <= group.keys()
        for group in groups
    )
    if not is_complete or not groups:
        raise UserError(f"{file}: its optimizer is not AdamW; save the model without it")
    for name, value in REQUIRED.items():
        if any(group.get(name, value) != value for group in groups):
            raise UserError(f"{file}: its AdamW does not have {name}={value}")
    first, *others = groups
    # `exporting.to_checkpoint` writes two groups with the same decay for decay="all".
    decays = [group["weight_decay"] for group in others]
    if len(others) > 1 or decays not in ([], [0], [first["weight_decay"]]):
        raise UserError(
            f"{file}: its AdamW has {len(groups)} groups of parameters with weight decays "
            f"{[group['weight_decay'] for group in groups]}; expected one group, or nanoGPT's two"
        )
    b1, b2 = first["betas"]
    return {
        "optimizer.name": "adamw",
        "optimizer.learning_rate": first["lr"],
        "optimizer.b1": b1,
        "optimizer.b2": b2,
        "optimizer.weight_decay": first["weight_decay"],
        "optimizer.decay": "matrices" if decays == [0] else "all",
    }


def in_group_order(shapes: dict[str, tuple[int, ...]], num_groups: int) -> list[str]:
    """Return the names of parameters in the order in which PyTorch numbers them."""
    if num_groups == 1:
        return list(shapes)
    return sorted(shapes, key=lambda name: len(shapes[name]) < 2)  # else in the order of `shapes`


def read(
    state_dict: dict[str, Any], shapes: dict[str, tuple[int, ...]], file: Path
) -> tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the number of steps and both moments by the names of the parameters.

    `shapes` has the names in the order of the module. Raise UserError if anything is missing.
    """
    groups, state = state_dict["param_groups"], state_dict.get("state")
    names = in_group_order(shapes, len(groups))
    numbers = [i for group in groups for i in group["params"]]
    if numbers != list(range(len(names))) or not isinstance(state, dict):
        raise UserError(
            f"{file}: its optimizer has {len(numbers)} parameters, its model {len(names)}"
        )
    if not state:  # saved before the first step
        zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        return 0, zeros, zeros
    steps, moments = set(), {"exp_avg": {}, "exp_avg_sq": {}}
    for i, name in enumerate(names):
        for key, by_name in moments.items():
            tensor = state.get(i, {}).get(key)
            if not isinstance(tensor, np.ndarray) or tensor.shape != shapes[name]:
                raise UserError(f"{file}: its optimizer has no {key} for {name}{shapes[name]}")
            by_name[name] = tensor
        steps.add(int(state[i].get("step", -1)))
    if len(steps) != 1 or not 0 <= min(steps) < 2**31:
        raise UserError(f"{file}: its optimizer has steps {sorted(steps)}, not one number")
    return steps.pop(), moments["exp_avg"], moments["exp_avg_sq"]


def replace_moments(opt_state: Any, step: int, num_updates: int, mu: Any, nu: Any) -> Any:
    """Return an optax state with these moments after `num_updates`, for training step `step`."""

    def replace(part: Any) -> Any:
        if isinstance(part, optax.ScaleByAdamState):
            return part._replace(count=jnp.int32(num_updates), mu=mu, nu=nu)
        if isinstance(part, optax.ScaleByScheduleState):
            return part._replace(count=jnp.int32(step))
        return part

    return jax.tree.map(replace, opt_state, is_leaf=_is_part)


def find_moments(opt_state: Any) -> optax.ScaleByAdamState | None:
    """Return the part of an optax state that has the moments, if there is one."""
    parts = jax.tree.leaves(opt_state, is_leaf=_is_part)
    return next((part for part in parts if isinstance(part, optax.ScaleByAdamState)), None)


def _is_part(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState | optax.ScaleByScheduleState)


def write(
    module: Any, config: OptimizerConfig, count: int, mu: dict[str, Any], nu: dict[str, Any]
) -> dict[str, Any]:
    """Return the state_dict of AdamW for a module after `count` updates. The moments are by name.

    Without moments the state is that before the first step.
    """
    import torch

    from makemore_jax.torch_parity.step import make_torch_optimizer

    state_dict = make_torch_optimizer(module, config).state_dict()
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    num_groups = len(state_dict["param_groups"])
    for i, name in enumerate(in_group_order(shapes, num_groups) if mu else []):
        state_dict["state"][i] = {
            "step": torch.tensor(float(count)),
            "exp_avg": torch.tensor(mu[name]),
            "exp_avg_sq": torch.tensor(nu[name]),
        }
    return state_dict
