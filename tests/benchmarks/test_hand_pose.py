"""Hand pose: a training step beside PyTorch's, vmapped and sequential trials, and rendering.

pytest -m benchmark tests/benchmarks/test_hand_pose.py

The same Net6, gradient descent with momentum, batch of 32, in one process: PyTorch with
channels-last tensors (`pip install torch`; skipped without it), two threads each. Prints one table;
asserts that both losses agree, but no time.
"""

import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv import training
from jaxcv.data.skinned_hand import render_mesh
from jaxcv.data.synthetic.hand import (
    Sensor,
    draw_hand_pose,
    draw_hand_shape,
    generate_hands,
    render_hand,
)
from jaxcv.geometry.camera import pixel_rays
from jaxcv.geometry.hand import hand_cones, hand_points
from jaxcv.models.hand_pose import HandNetwork, layers_of, pose_loss
from tests.benchmarks.measure import seconds_per_call
from tests.data.synthetic.ray_caster import meshes_of_cones

FOLDER = pathlib.Path("runs/benchmarks")
SIZES = {"cpu": (64, HandNetwork(width=0.25, dense=256)), "paper": (128, HandNetwork())}
BATCH, RATE, MOMENTUM = 32, 0.01, 0.9


def sweep_of(network, side, loop=False):
    def loss(params, batch, key, member):
        return pose_loss(network.apply(params, batch[0], rate=0.0, key=None), batch[1]), {}

    init = lambda key, member: network.init(key, jnp.zeros((1, side, side, 1)))
    return training.Sweep(
        init, loss, optax.sgd, hyperparameters=("learning_rate", "momentum"), loop=loop
    )


def members(count):
    rates = {"learning_rate": np.full(count, RATE), "momentum": np.full(count, MOMENTUM)}
    return {"seed": np.zeros(count, int)} | rates


def ours(network, side, images, target):
    """Seconds of a step and of inference, the first two losses, and the initial parameters."""
    sweep, own = sweep_of(network, side, loop=True), members(1)  # as on CPUs
    packed, batch, losses = sweep.init(own), (images, target), []
    params = jax.tree.map(lambda leaf: jnp.array(leaf[0]), packed.params)
    state = sweep.unpacked(packed)
    for _ in range(2):
        state, metrics = sweep.run(state, own, batch, length=1)
        losses.append(float(metrics["loss"][0, 0]))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        state, metrics = sweep.run(state, own, batch, length=1)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    apply = jax.jit(network.apply)
    return (
        float(np.median(times)),
        seconds_per_call(apply, params, images, repeats=9),
        losses,
        params,
    )


def theirs(torch, network, side, images, target, params):
    """The same times and losses of PyTorch, from the same weights."""
    from torch import nn

    own, modules, channels = params["params"], [], 1
    tensor = lambda x: torch.tensor(np.asarray(x))
    for layer in layers_of(network.net):
        if not layer.channels:
            modules.append(nn.MaxPool2d(2))
            side //= 2
            continue
        kernel = own[layer.name]["kernel"]
        convolution = nn.Conv2d(channels, kernel.shape[-1], layer.size, padding=layer.size // 2)
        convolution.weight.data = tensor(kernel).permute(3, 2, 0, 1).contiguous()
        channels = kernel.shape[-1]
        modules += [convolution, nn.ReLU()]
    modules.append(nn.Flatten())
    for name in ("fc1", "fc2", "output"):
        kernel = np.asarray(own[name]["kernel"])
        if name == "fc1":  # NHWC to NCHW
            kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        dense = nn.Linear(*kernel.shape)
        dense.weight.data, dense.bias.data = tensor(kernel.T.copy()), tensor(own[name]["bias"])
        modules += [dense, nn.Tanh() if name == "output" else nn.ReLU()]
    for module in modules:
        if isinstance(module, nn.Conv2d):
            module.bias.data.zero_()
    model = nn.Sequential(*modules).to(memory_format=torch.channels_last)
    x = tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = tensor(target).reshape(len(target), -1)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).sum(dim=1).mean() / 28
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    losses, times = [step(), step()], []
    for _ in range(9):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    with torch.no_grad():
        forward = []
        for _ in range(9):
            start = time.perf_counter()
            model(x)
            forward.append(time.perf_counter() - start)
    return float(np.median(times)), float(np.median(forward)), losses


def separate_runs(network, side, batch, count=8, steps=20):
    """Seconds of a search with sequential trials, and of as many separately compiled runs."""

    def run(settings):
        sweep = sweep_of(network, side, loop=True)
        state = sweep.unpacked(sweep.init(settings))
        for _ in range(steps):
            state, metrics = sweep.run(state, settings, batch, length=1)
        jax.block_until_ready(metrics)

    out = {}
    for name, jobs in (("in turn", [members(count)]), ("separately", [members(1)] * count)):
        start = time.perf_counter()
        for job in jobs:
            jax.clear_caches()
            run(job)
        out[f"search/{count} members, {steps} steps/{name}/s"] = time.perf_counter() - start
    return out


def renders(out):
    size, k = (112, 112), jnp.array([[240.0, 0, 55.5], [0, 240.0, 55.5], [0, 0, 1]])

    def draw(key):
        shape = draw_hand_shape(key)
        points = hand_points(draw_hand_pose(key, shape), shape)
        away = jnp.array([0.0, 0.0, 700.0]) - jnp.mean(points[:20], axis=0)
        return points + away, shape.radii

    points, radii = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 16))
    render = jax.jit(jax.vmap(lambda p, r: render_hand(p, r, k, size)))
    out["render/ms"] = 1e3 * seconds_per_call(render, points, radii) / 16
    rays, views = np.asarray(pixel_rays(k, *size), float), render(points, radii)
    different, apart, pixels = 0, [], 0
    for i in range(4):
        vertices, faces = meshes_of_cones(hand_cones(points[i], radii[i]))
        depth, _ = render_mesh(vertices, faces, rays)
        one, other = np.isfinite(views.depth[i]), np.isfinite(depth)
        different, pixels = different + int((one != other).sum()), pixels + int(one.sum())
        apart.append(np.abs(np.asarray(views.depth[i]) - depth)[one & other])
    apart = np.concatenate(apart)
    out["render/mask_pixels_that_differ"], out["render/pixels"] = different, pixels
    out["render/depth_apart_mm"] = {
        "median": float(np.median(apart)), "99.9%": float(np.quantile(apart, 0.999)),
        "over 0.1 mm": int((apart > 0.1).sum()),
    }  # fmt: skip
    make = lambda: generate_hands(jax.random.key(1), 128, sensor=Sensor()).depth
    make()
    start = time.perf_counter()
    make()
    out["frames_per_second"] = 128 / (time.perf_counter() - start)


@pytest.mark.benchmark
def test_hand_pose():
    out: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for size, (side, network) in SIZES.items():
        images = rng.uniform(-1, 1, (BATCH, side, side, 1)).astype(np.float32)
        target = rng.uniform(-0.5, 0.5, (BATCH, 14, 3)).astype(np.float32)
        step, forward, losses, params = ours(network, side, images, target)
        out[f"{size}/step_ms"], out[f"{size}/images_per_second"] = 1e3 * step, BATCH / forward
        torch = pytest.importorskip("torch")
        peer, peer_forward, peer_losses = theirs(torch, network, side, images, target, params)
        out[f"{size}/torch_step_ms"] = 1e3 * peer
        out[f"{size}/torch_images_per_second"] = BATCH / peer_forward
        out[f"{size}/step_ratio"] = step / peer
        np.testing.assert_allclose(losses, peer_losses, rtol=1e-3)
    side, network = SIZES["cpu"]
    images, target = (x[:, :side, :side] if x.ndim == 4 else x for x in (images, target))
    for count in (1, 8):
        for loop in (False, True):
            sweep, own = sweep_of(network, side, loop), members(count)
            state = sweep.unpacked(sweep.init(own))
            times = []
            for _ in range(6):
                start = time.perf_counter()
                state, metrics = sweep.run(state, own, (images, target), length=1)
                jax.block_until_ready((state, metrics))
                times.append(time.perf_counter() - start)
            out[f"search/{count} members/{'in turn' if loop else 'at once'}/ms"] = 1e3 * float(
                np.median(times[1:])
            )
    out |= separate_runs(network, side, (images, target))
    renders(out)
    print(json.dumps(out, indent=1))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "hand_pose.json").write_text(json.dumps(out, indent=1) + "\n")
