"""States of optimizers on disk and in 8 bits: the same updates, exact resume, how much they take."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from preceptor.core.config import decode
from preceptor.core.errors import ArtifactError, ConfigError, OutputError
from preceptor.train import scratch_file
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.optimizer_states import StatesOnHost
from preceptor.train.run import PretrainingConfig

KINDS = ["muon", "adamw", "adam", "adafactor", "lion", "rmsprop", "sgd"]
ON_DISK, IN_8_BITS = MemoryConfig(optimizer_states="disk"), MemoryConfig(optimizer_bits=8)
SETTINGS_IN_8_BITS = {
    "adamw": {"learning_rate": 0.01},
    "adam": {"learning_rate": 0.01},
    "lion": {"learning_rate": 0.003},
    "rmsprop": {"learning_rate": 0.003, "momentum": 0.0},
    "sgd": {"learning_rate": 0.3, "momentum": 0.9, "nesterov": False},
}


def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (80, 64), "a.weight": (64, 64), "b.weight": (64, 96), "norm.weight": (64,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def train(optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for name, parameter in optimizer.parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            if name == "b.weight" and step < 2:
                parameter.grad = None
        optimizer.step(1.0)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_states_on_disk_give_the_same_updates_and_resume_exactly(kind, tmp_path):
    config = OptimizerConfig(kind=kind, learning_rate=0.01)
    plain, other = weights(), weights()
    in_memory, on_disk = Optimizer(plain, config), Optimizer(other, config, memory=ON_DISK, folder=tmp_path / "made")
    train(in_memory, range(5))
    train(on_disk, range(3))
    assert not list((tmp_path / "made").iterdir())
    save_file(on_disk.state_tensors(), tmp_path / "state.safetensors")
    resumed = Optimizer(other, config, memory=ON_DISK, folder=tmp_path / "made")
    resumed.load_state_tensors(load_file(tmp_path / "state.safetensors"))
    train(resumed, range(3, 5))
    assert same(plain, other) and same(in_memory.state_tensors(), resumed.state_tensors())


def mapped_bytes():
    with open("/proc/self/smaps", encoding="utf-8") as file:
        lines = file.read().split("\n")
    inside, total = False, 0
    for line in lines:
        if "-" in line.split(" ")[0] and not line.startswith(("Vm", "Size")):
            inside = "(deleted)" in line
        elif inside and line.startswith("Size:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("kind", KINDS)
def test_states_on_disk_are_mapped_from_a_file_and_go_with_the_optimizer(kind, tmp_path):
    before = mapped_bytes()
    optimizer = Optimizer(weights(), OptimizerConfig(kind=kind), memory=ON_DISK, folder=tmp_path)
    train(optimizer, range(3))
    large = [tensor.nbytes for tensor in optimizer.state_tensors().values() if tensor.nbytes >= 4096]
    assert kind == "adafactor" or mapped_bytes() - before >= sum(large) > 50_000
    assert optimizer.bytes_on_disk >= sum(large)
    once = mapped_bytes()
    train(optimizer, range(3, 5))
    assert mapped_bytes() == once
    del optimizer
    assert mapped_bytes() == before


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch_file.os, "posix_fallocate", full)
    optimizer = Optimizer(weights(), OptimizerConfig(kind="adamw"), memory=ON_DISK, folder=tmp_path)
    with pytest.raises(OutputError, match="No space left"):
        train(optimizer, range(1))


def test_a_missing_folder_is_told(tmp_path):
    memory = MemoryConfig(optimizer_states="disk", folder=str(tmp_path / "none"))
    with pytest.raises(OutputError, match="is no folder"):
        Optimizer(weights(), OptimizerConfig(kind="adamw"), memory=memory)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_states_on_the_host_give_the_same_updates(kind):
    config = OptimizerConfig(kind=kind, learning_rate=0.01)
    plain, other = weights(), weights()
    optimizer = Optimizer(other, config, memory=MemoryConfig(optimizer_states="host"))
    # On a CPU the host's memory is the device's; the way of a GPU is taken all the same.
    optimizer._places = StatesOnHost()
    train(Optimizer(plain, config), range(4))
    train(optimizer, range(4))
    assert same(plain, other)


def losses(config, memory, folder=None):
    """The losses of a small network that learns a fixed function."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(32, 512), nn.Tanh(), nn.Linear(512, 32, bias=False))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    x = torch.randn(256, 32, generator=generator)
    y = torch.tanh(x @ torch.randn(32, 32, generator=generator) * 0.2)
    optimizer = Optimizer(dict(model.named_parameters()), config, memory=memory, folder=folder)
    found = []
    for _ in range(80):
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step(1.0)
        found.append(loss.item())
    states = sum(t.nbytes for name, t in optimizer.state_tensors().items() if name.split(".")[-1] != "step")
    return found, states


@pytest.mark.parametrize("kind", SETTINGS_IN_8_BITS)
def test_states_in_8_bits_learn_as_well_in_a_fraction_of_the_bytes(kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = OptimizerConfig(kind=kind, **SETTINGS_IN_8_BITS[kind])
    plain, plain_bytes = losses(config, MemoryConfig())
    found, found_bytes = losses(config, IN_8_BITS)
    assert plain[-1] < 0.5 * plain[0]
    # Within a tenth of what was learned.
    assert abs(found[-1] - plain[-1]) < 0.1 * (plain[0] - plain[-1])
    # A byte in place of four, a scale for 256 of them, and for each weight one or two tables of 256 values.
    assert found_bytes < 0.3 * plain_bytes
    on_disk, _ = losses(config, MemoryConfig(optimizer_bits=8, optimizer_states="disk"), tmp_path)
    assert on_disk == found


@pytest.mark.parametrize("kind", SETTINGS_IN_8_BITS)
def test_states_in_8_bits_resume_exactly(kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = OptimizerConfig(kind=kind, **SETTINGS_IN_8_BITS[kind])
    straight, other = weights(), weights()
    whole, first = Optimizer(straight, config, memory=IN_8_BITS), Optimizer(other, config, memory=IN_8_BITS)
    train(whole, range(6))
    train(first, range(3))
    save_file(first.state_tensors(), tmp_path / "state.safetensors")
    second = Optimizer(other, config, memory=IN_8_BITS)
    second.load_state_tensors(load_file(tmp_path / "state.safetensors"))
    train(second, range(3, 6))
    assert same(straight, other) and same(whole.state_tensors(), second.state_tensors())
    assert any(tensor.dtype == torch.uint8 for tensor in second.state_tensors().values())
    with pytest.raises(ArtifactError, match="8 bits"):
        Optimizer(other, config).load_state_tensors(load_file(tmp_path / "state.safetensors"))


@pytest.mark.parametrize(
    "optimizer, said",
    [
        ({}, "not for muon: choose"),
        ({"kind": "adafactor"}, "not for adafactor: choose"),
        ({"kind": "rmsprop"}, "momentum = 0"),
        ({"kind": "sgd", "momentum": 0.0}, "no states"),
        ({"kind": "sgd"}, "nesterov = false"),
    ],
)
def test_what_has_no_8_bit_form_is_refused_with_what_to_choose(optimizer, said):
    with pytest.raises(ValueError, match=said):
        PretrainingConfig(optimizer=OptimizerConfig(**optimizer), memory=IN_8_BITS)


def test_paged_states_need_a_gpu():
    pytest.importorskip("bitsandbytes")
    memory = MemoryConfig(optimizer_bits=8, paged=True)
    with pytest.raises(ConfigError, match="on the CPU"):
        Optimizer(weights(), OptimizerConfig(kind="adamw"), memory=memory)


def test_a_missing_bitsandbytes_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        Optimizer(weights(), OptimizerConfig(kind="adamw"), memory=IN_8_BITS)
    assert "preceptor[quant]" in caught.value.remedy


def test_a_state_is_read_from_a_recipe():
    table = {"memory": {"optimizer_bits": 8, "optimizer_states": "disk"}, "optimizer": {"kind": "lion"}}
    config = decode(PretrainingConfig, table)
    assert config.memory == MemoryConfig(optimizer_bits=8, optimizer_states="disk")
    with pytest.raises(ConfigError, match="not for muon"):
        decode(PretrainingConfig, {"memory": {"optimizer_bits": 8}})
