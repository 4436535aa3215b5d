"""The model families in PyTorch, as references for `makemore_jax/models/` and `windows/`.

The state_dicts of the six families that makemore has use makemore's names and shapes, including
buffers (the causal masks), so a `model.pt` can be exchanged in both directions. cnn, lstm, modern
and window_mlp follow the same style. All sizes are keyword arguments with the names of the config.
Initial values are PyTorch's defaults.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bigram(nn.Module):
    def __init__(self, vocab_size: int, **_):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size, vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[tokens]


class MLP(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_embd: int, n_embd2: int, **_):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.wte = nn.Embedding(vocab_size + 1, n_embd)  # the last row is padding
        self.mlp = nn.Sequential(
            nn.Linear(block_size * n_embd, n_embd2), nn.Tanh(), nn.Linear(n_embd2, vocab_size)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.shape[1]
        padded = F.pad(tokens, (self.block_size - 1, 0), value=self.vocab_size)
        shifted = [padded[:, self.block_size - 1 - k :][:, :T] for k in range(self.block_size)]
        return self.mlp(torch.cat([self.wte(tokens) for tokens in shifted], dim=-1))


class RNNCell(nn.Module):
    def __init__(self, n_embd: int, n_embd2: int):
        super().__init__()
        self.xh_to_h = nn.Linear(n_embd + n_embd2, n_embd2)

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.xh_to_h(torch.cat([x, h], dim=-1)))
        return h, h


class GRUCell(nn.Module):
    def __init__(self, n_embd: int, n_embd2: int):
        super().__init__()
        self.xh_to_z = nn.Linear(n_embd + n_embd2, n_embd2)
        self.xh_to_r = nn.Linear(n_embd + n_embd2, n_embd2)
        self.xh_to_hbar = nn.Linear(n_embd + n_embd2, n_embd2)

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        xh = torch.cat([x, h], dim=-1)
        z = torch.sigmoid(self.xh_to_z(xh))
        r = torch.sigmoid(self.xh_to_r(xh))
        hbar = torch.tanh(self.xh_to_hbar(torch.cat([x, r * h], dim=-1)))
        h = (1 - z) * h + z * hbar
        return h, h


class LSTMCell(nn.Module):
    def __init__(self, n_embd: int, n_embd2: int):
        super().__init__()
        self.xh_to_i = nn.Linear(n_embd + n_embd2, n_embd2)
        self.xh_to_f = nn.Linear(n_embd + n_embd2, n_embd2)
        self.xh_to_o = nn.Linear(n_embd + n_embd2, n_embd2)
        self.xh_to_cbar = nn.Linear(n_embd + n_embd2, n_embd2)

    def forward(
        self, state: tuple[Tensor, Tensor], x: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h, c = state
        xh = torch.cat([x, h], dim=-1)
        i = torch.sigmoid(self.xh_to_i(xh))
        f = torch.sigmoid(self.xh_to_f(xh))
        o = torch.sigmoid(self.xh_to_o(xh))
        c = f * c + i * torch.tanh(self.xh_to_cbar(xh))
        h = o * torch.tanh(c)
        return (h, c), h


class Recurrent(nn.Module):
    Cell: type[nn.Module]

    def __init__(self, vocab_size: int, n_embd: int, n_embd2: int, **_):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, n_embd2))
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.cell = self.Cell(n_embd, n_embd2)
        self.lm_head = nn.Linear(n_embd2, vocab_size)

    def first_state(self, batch_size: int):
        return self.start.expand(batch_size, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        state, embedded, hidden = self.first_state(len(tokens)), self.wte(tokens), []
        for t in range(tokens.shape[1]):
            state, h = self.cell(state, embedded[:, t])
            hidden.append(h)
        return self.lm_head(torch.stack(hidden, dim=1))


class RNN(Recurrent):
    Cell = RNNCell


class GRU(Recurrent):
    Cell = GRUCell


class LSTM(Recurrent):
    Cell = LSTMCell

    def __init__(self, n_embd2: int, **sizes):
        super().__init__(n_embd2=n_embd2, **sizes)
        self.start_c = nn.Parameter(torch.zeros(1, n_embd2))

    def first_state(self, batch_size: int):
        return super().first_state(batch_size), self.start_c.expand(batch_size, -1)


class CausalAverage(nn.Module):
    """The mean of all positions so far, computed as attention with scores of 0."""

    def __init__(self, block_size: int):
        super().__init__()
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, block_size, block_size))

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        scores = torch.zeros(1, T, T, dtype=x.dtype, device=x.device)
        weights = F.softmax(scores.masked_fill(self.bias[:, :T, :T] == 0, -torch.inf), dim=-1)
        return weights @ x


class ContextBlock(nn.Module):
    def __init__(self, block_size: int, n_embd: int, n_embd2: int):
        super().__init__()
        self.cbow = CausalAverage(block_size)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(n_embd, n_embd2), "c_proj": nn.Linear(n_embd2, n_embd)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cbow(x)
        return x + self.mlp["c_proj"](torch.tanh(self.mlp["c_fc"](x)))


class BoW(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_embd: int, n_embd2: int, **_):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.context_block = ContextBlock(block_size, n_embd, n_embd2)
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        return self.lm_head(self.context_block(x))


class CausalConv(nn.Module):
    def __init__(self, n_in: int, n_out: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.linear = nn.Linear(2 * n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        shifted = F.pad(x, (0, 0, self.dilation, 0))[:, : x.shape[1]]
        return self.linear(torch.cat([shifted, x], dim=-1))


class GatedBlock(nn.Module):
    def __init__(self, n_embd: int, n_embd2: int, dilation: int, is_last: bool):
        super().__init__()
        self.conv = CausalConv(n_embd, 2 * n_embd2, dilation)
        self.residual = None if is_last else nn.Linear(n_embd2, n_embd)
        self.skip = nn.Linear(n_embd2, n_embd2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        signal, gate = self.conv(x).chunk(2, dim=-1)
        z = torch.tanh(signal) * torch.sigmoid(gate)
        return x if self.residual is None else x + self.residual(z), self.skip(z)


class CNN(nn.Module):
    def __init__(self, vocab_size: int, n_layer: int, n_embd: int, n_embd2: int, **_):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.h = nn.ModuleList(
            GatedBlock(n_embd, n_embd2, 2**i, is_last=i == n_layer - 1) for i in range(n_layer)
        )
        self.c_proj = nn.Linear(n_embd2, n_embd2)
        self.lm_head = nn.Linear(n_embd2, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x, skips = self.wte(tokens), 0.0
        for block in self.h:
            x, skip = block(x)
            skips = skips + skip
        hidden = self.c_proj(F.gelu(skips, approximate="tanh"))
        return self.lm_head(F.gelu(hidden, approximate="tanh"))


class CausalSelfAttention(nn.Module):
    def __init__(
        self, block_size: int, n_head: int, n_embd: int, bias: bool, fused_attention: bool
    ):
        super().__init__()
        self.n_head, self.fused_attention = n_head, fused_attention
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, 1, block_size, block_size))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        q, k, v = (a.view(heads).transpose(1, 2) for a in self.c_attn(x).split(C, dim=2))
        if self.fused_attention:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, nh, T, T)
            mask = self.bias[:, :, :T, :T] == 0
            y = F.softmax(scores.masked_fill(mask, -torch.inf), dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(
        self,
        block_size: int,
        n_head: int,
        n_embd: int,
        bias: bool,
        activation: str,
        fused_attention: bool,
    ):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, bias=bias)
        self.attn = CausalSelfAttention(block_size, n_head, n_embd, bias, fused_attention)
        self.ln_2 = nn.LayerNorm(n_embd, bias=bias)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias),
                "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias),
            }
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        h = self.mlp["c_fc"](self.ln_2(x))
        if self.activation == "relu":
            h = F.relu(h)
        else:
            h = F.gelu(h, approximate="none" if self.activation == "gelu_exact" else "tanh")
        return x + self.mlp["c_proj"](h)


class Transformer(nn.Module):
    """GPT-2. `fused_attention` uses PyTorch's attention kernel, as nanoGPT does."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        bias: bool = True,
        activation: str = "gelu",
        tied: bool = False,
        fused_attention: bool = False,
        **_,
    ):
        super().__init__()
        block_args = (block_size, n_head, n_embd, bias, activation, fused_attention)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(Block(*block_args) for _ in range(n_layer)),
                "ln_f": nn.LayerNorm(n_embd, bias=bias),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tied:  # one parameter with two names, as in nanoGPT
            self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        parts, position = self.transformer, torch.arange(tokens.shape[1], device=tokens.device)
        x = parts["wte"](tokens) + parts["wpe"](position)
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


class BatchNorm(nn.Module):
    """Batch norm as in the lectures: variances are divided by B - 1, also in the normalization."""

    def __init__(self, n: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            rows = x.flatten(0, -2)  # positions of a window count as examples
            mean, var = rows.mean(dim=0), rows.var(dim=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        return self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias


class WindowMLP(nn.Module):
    """The networks of the lectures. (B, S) -> (B, S - T + 1, V), for windows of T tokens."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_embd: int,
        n_embd2: int,
        fuse: int | None = None,
        batch_norm: str = "none",
        momentum: float = 0.1,
        output_norm: bool = False,
        **_,
    ):
        super().__init__()
        has_norm, self.window = batch_norm != "none", block_size
        self.num_joined = [fuse] * n_layer if fuse else [block_size] + [1] * (n_layer - 1)
        widths = [n_embd] + [n_embd2] * (n_layer - 1)
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.h = nn.ModuleList(
            nn.Linear(n * width, n_embd2, bias=not has_norm)
            for n, width in zip(self.num_joined, widths, strict=True)
        )
        if has_norm:
            self.norms = nn.ModuleList(BatchNorm(n_embd2, momentum) for _ in range(n_layer))
        self.lm_head = nn.Linear(n_embd2, vocab_size, bias=not output_norm)
        if output_norm:
            self.norm_f = BatchNorm(vocab_size, momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens.unfold(1, self.window, 1))  # (B, S - T + 1, T, C)
        for i, (n, linear) in enumerate(zip(self.num_joined, self.h, strict=True)):
            x = linear(x.unflatten(2, (-1, n)).flatten(3))  # concatenate n neighbors
            x = torch.tanh(self.norms[i](x) if hasattr(self, "norms") else x)
        logits = self.lm_head(x.squeeze(2))
        return self.norm_f(logits) if hasattr(self, "norm_f") else logits


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


def rotate(x: Tensor) -> Tensor:
    """Rotate the pairs of channels of (B, nh, T, hs) by the position of each row."""
    T, head_size = x.shape[-2:]
    frequencies = 10_000 ** (
        -torch.arange(0, head_size, 2, dtype=x.dtype, device=x.device) / head_size
    )
    angles = torch.arange(T, dtype=x.dtype, device=x.device)[:, None] * frequencies
    pairs = torch.complex(*x.chunk(2, dim=-1))
    rotated = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([rotated.real, rotated.imag], dim=-1)


class ModernAttention(nn.Module):
    def __init__(self, n_head: int, n_embd: int):
        super().__init__()
        self.n_head = n_head
        self.c_q = nn.Linear(n_embd, n_embd, bias=False)
        self.c_k = nn.Linear(n_embd, n_embd, bias=False)
        self.c_v = nn.Linear(n_embd, n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = (*x.shape[:2], self.n_head, -1)
        q, k, v = (f(x).view(heads).transpose(1, 2) for f in (self.c_q, self.c_k, self.c_v))
        q, k = rms_norm(rotate(q)), rms_norm(rotate(k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(x.shape))


class ModernBlock(nn.Module):
    def __init__(self, n_head: int, n_embd: int):
        super().__init__()
        self.attn = ModernAttention(n_head, n_embd)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(n_embd, 4 * n_embd, bias=False),
                "c_proj": nn.Linear(4 * n_embd, n_embd, bias=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(rms_norm(x))
        return x + self.mlp["c_proj"](F.relu(self.mlp["c_fc"](rms_norm(x))).square())


class Modern(nn.Module):
    """The block of nanochat: RMSNorm, rotary positions, QK norm, relu squared, no biases."""

    def __init__(self, vocab_size: int, n_layer: int, n_head: int, n_embd: int, **_):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.h = nn.ModuleList(ModernBlock(n_head, n_embd) for _ in range(n_layer))
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = rms_norm(self.wte(tokens))
        for block in self.h:
            x = block(x)
        return self.lm_head(rms_norm(x))


MODELS = {
    "bigram": Bigram,
    "mlp": MLP,
    "cnn": CNN,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "bow": BoW,
    "transformer": Transformer,
    "modern": Modern,
    "window_mlp": WindowMLP,
}
