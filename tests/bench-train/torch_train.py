"""Trains the architecture of a model directory in PyTorch on seeded noise and prints one line of JSON, as
node/model/examples/train_speed.rs does. Usage: torch_train.py DIR full|low-rank STEPS ROWS SEQUENCE ACCUMULATE

Plain modules, fused where this PyTorch fuses (AdamW foreach, cross_entropy), f32, all threads: what a
user would write.
"""
import json
import math
import os
import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WARM_STEPS = 2


class Norm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Linear(nn.Module):
    """Without bias; with a rank, the weight is frozen and B of the low-rank update is trained."""

    def __init__(self, inputs, outputs, rank):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.02, requires_grad=rank is None)
        self.rank = rank
        if rank is not None:
            self.a = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs), requires_grad=False)
            self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        y = F.linear(x, self.weight)
        return y if self.rank is None else y + F.linear(F.linear(x, self.a), self.b)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Layer(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        hidden, wide = c["hidden_size"], c["intermediate_size"]
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = hidden // self.heads
        self.norm1 = Norm(hidden, c["rms_norm_eps"])
        self.norm2 = Norm(hidden, c["rms_norm_eps"])
        self.q = Linear(hidden, self.heads * self.dim, rank)
        self.k = Linear(hidden, self.kv * self.dim, rank)
        self.v = Linear(hidden, self.kv * self.dim, rank)
        self.o = Linear(self.heads * self.dim, hidden, rank)
        self.gate = Linear(hidden, wide, rank)
        self.up = Linear(hidden, wide, rank)
        self.down = Linear(wide, hidden, rank)

    def forward(self, x, cos, sin, mask):
        rows, length, _ = x.shape
        n = self.norm1(x)
        split = lambda y, heads: y.view(rows, length, heads, self.dim).transpose(1, 2)
        q = rotate(split(self.q(n), self.heads), cos, sin)
        k = rotate(split(self.k(n), self.kv), cos, sin)
        v = split(self.v(n), self.kv)
        group = self.heads // self.kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.transpose(2, 3) / math.sqrt(self.dim) + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, -1)
        x = x + self.o(y)
        n = self.norm2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Llama(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.embed.weight.data.mul_(0.02)
        self.embed.weight.requires_grad = rank is None
        self.layers = nn.ModuleList(Layer(c, rank) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        if rank is not None:
            for module in self.modules():
                if isinstance(module, Norm):
                    module.weight.requires_grad = False
        self.dim = c["hidden_size"] // c["num_attention_heads"]
        self.theta = c.get("rope_theta", 10000.0)

    def forward(self, ids):
        length = ids.shape[1]
        at = torch.arange(length, dtype=torch.float32)
        angles = torch.outer(at, self.theta ** (-torch.arange(0, self.dim, 2).float() / self.dim))
        mask = torch.full((length, length), -1e30).triu(1)
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), mask)
        return F.linear(self.norm(x), self.embed.weight)


def main():
    path, mode = sys.argv[1], sys.argv[2]
    steps, rows, sequence, accumulate = map(int, sys.argv[3:7])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    with open(f"{path}/config.json") as file:
        config = json.load(file)
    assert config.get("tie_word_embeddings"), "tied heads only"
    model = Llama(config, None if mode == "full" else 16)
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        optimizer = torch.optim.AdamW(trained, lr=3e-4, foreach=True)
    except TypeError:
        optimizer = torch.optim.AdamW(trained, lr=3e-4)
    losses, started = [], time.perf_counter()
    for step in range(steps + WARM_STEPS):
        if step == WARM_STEPS:
            started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(accumulate):
            ids = torch.randint(config["vocab_size"], (rows, sequence + 1))
            scores = model(ids[:, :-1])
            loss = F.cross_entropy(scores.view(-1, scores.shape[-1]), ids[:, 1:].reshape(-1))
            (loss / accumulate).backward()
            total += loss.item() / accumulate
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(round(total, 4))
    seconds = time.perf_counter() - started
    tokens = steps * rows * sequence * accumulate
    print(json.dumps({
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds": round(seconds, 2),
        "rss_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000,
        "losses": losses,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }))


main()
