"""Inverse graphics: a training step by phases, by plain convolutions, and in PyTorch.

pytest -m benchmark tests/benchmarks/test_inverse_graphics.py

The same network, loss (batch of 20, all latents active, the same noise) and Adam from the same
weights, in one process: PyTorch with channels-last tensors (`pip install torch`; skipped without
it). Prints one table; asserts that the losses agree, but no time.
"""

import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.models.inverse_graphics import CPU_SIZE, PAPER_SIZE, GraphicsNetwork
from jaxcv.systems.inverse_graphics import graphics_loss

FOLDER = pathlib.Path("runs/benchmarks")
SIZES = {"cpu": CPU_SIZE, "paper": PAPER_SIZE}
BATCH, RATE = 20, 5e-4
REPEATS = {"cpu": 21, "paper": 3}


def ours(size, method, images, repeats):
    """Median seconds of a step, the first two losses, the initial weights, and the noise."""
    network = GraphicsNetwork(size, method=method)
    params: Any = jax.jit(network.init)(jax.random.key(0), images)
    start = jax.device_get(params)
    optimizer = optax.adam(RATE)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, noise):
        def loss(params):
            return quiet_loss(params, images, noise, network)

        value, slope = jax.value_and_grad(loss)(params)
        update, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, update), state, value

    noise = np.random.default_rng(1).normal(size=(len(images), size.latents)).astype(np.float32)
    state, losses, times = optimizer.init(params), [], []
    for _ in range(2 + repeats):
        begin = time.perf_counter()
        params, state, value = step(params, state, images, noise)
        losses.append(float(value))
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:])), losses[:2], start, noise


def quiet_loss(params, images, noise, network):
    """`graphics_loss` with given noise, which PyTorch shares."""
    from jaxcv.models.inverse_graphics import bernoulli_loss, kl_divergence

    mean, log_variance = network.apply(params, images, method="encode")
    logits = network.apply(params, mean + jnp.exp(0.5 * log_variance) * noise, method="decode")
    return jnp.mean(bernoulli_loss(logits, images)) + jnp.mean(kl_divergence(mean, log_variance))


@pytest.mark.slow
def test_the_loss_is_that_of_the_training():
    network = GraphicsNetwork(CPU_SIZE)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 48, 48, 1)), jnp.float32)
    params = network.init(jax.random.key(0), images)
    key = jax.random.key(3)
    noise = jax.random.normal(key, (3, CPU_SIZE.latents))
    want = graphics_loss(params, images, key, network=network)[0]
    np.testing.assert_allclose(quiet_loss(params, images, noise, network), want, rtol=1e-6)


def theirs(torch, size, images, params, noise, repeats):
    """The same times and losses of PyTorch."""
    from torch import nn

    own = params["params"]
    tensor = lambda x: torch.tensor(np.asarray(x))

    class Threshold(nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, 1e-6)

    def convolution(entry):
        kernel = np.asarray(entry["kernel"])
        layer = nn.Conv2d(*kernel.shape[2:], kernel.shape[0])
        layer.weight.data = tensor(kernel.transpose(3, 2, 0, 1).copy())
        layer.bias.data = tensor(entry["bias"])
        return layer

    def dense(entry, order=None, axis=0):
        kernel, bias = np.asarray(entry["kernel"]), np.asarray(entry["bias"])
        if order is not None:
            kernel = np.take(kernel, order, axis)
            bias = bias[order] if axis else bias
        layer = nn.Linear(*kernel.shape)
        layer.weight.data, layer.bias.data = tensor(kernel.T.copy()), tensor(bias)
        return layer

    def channels_first(side, channels):  # indices in (H, W, C) of (C, H, W)
        return np.arange(side * side * channels).reshape(side, side, channels).transpose(2, 0, 1)

    side = size.image
    encoder: list[Any] = []
    for k, (kernel, _) in enumerate(size.encoder):
        encoder += [convolution(own[f"convolutions_{k}"]), nn.MaxPool2d(2), Threshold()]
        side = (side - kernel + 1) // 2
    order = channels_first(side, size.encoder[-1][1]).ravel()
    first, channels = size.start
    decoder: list[Any] = [
        dense(own["start"], channels_first(first, channels).ravel(), 1), Threshold(),
        nn.Unflatten(1, (channels, first, first)),
    ]  # fmt: skip
    for k in range(len(size.decoder)):
        decoder += [nn.Upsample(scale_factor=2), convolution(own[f"upsampled_{k}"])]
        decoder += [Threshold()] if k + 1 < len(size.decoder) else []
    parts = nn.ModuleDict(
        {
            "encoder": nn.Sequential(*encoder, nn.Flatten()),
            "mean": dense(own["mean"], order),
            "log_variance": dense(own["log_variance"], order),
            "decoder": nn.Sequential(*decoder),
        }
    ).to(memory_format=torch.channels_last)
    x = tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    optimizer, e = torch.optim.Adam(parts.parameters(), lr=RATE), tensor(noise)

    def step():
        optimizer.zero_grad()
        hidden = parts["encoder"](x)
        mean, log_variance = parts["mean"](hidden), parts["log_variance"](hidden)
        logits = parts["decoder"](mean + torch.exp(0.5 * log_variance) * e)
        bernoulli = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance).sum()
        loss = (bernoulli + kl) / len(x)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    losses, times = [step(), step()], []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)), losses


@pytest.mark.benchmark
def test_step_beside_pytorch():
    table = {}
    for name, size in SIZES.items():
        shape = (BATCH, size.image, size.image, 1)
        images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        row: dict[str, Any] = {}
        for method in ("phases", "convolution"):
            row[f"{method}_s"], losses, start, noise = ours(size, method, images, REPEATS[name])
            row.setdefault("losses", losses)
            np.testing.assert_allclose(losses, row["losses"], rtol=1e-4)
        try:
            import torch
        except ImportError:
            row["pytorch_s"] = None
        else:
            row["pytorch_s"], losses = theirs(torch, size, images, start, noise, REPEATS[name])
            np.testing.assert_allclose(losses, row["losses"], rtol=1e-3)
        table[name] = row
        print(json.dumps({name: row}))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "inverse_graphics.json").write_text(json.dumps(table, indent=2))
