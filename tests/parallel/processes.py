"""Processes that run scenes together, as the ranks of a mesh: started once, used many times."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from preceptor.parallel.layout import Piece

SECONDS = 120.0
"""How long a scene may take."""


class Processes:
    """Up to so many processes, each of which imports a file of scenes."""

    def __init__(self, scenes: Path, folder: Path) -> None:
        self.scenes, self.folder, self.workers = scenes, folder, []

    def run(self, scene, world, **given):
        """What each rank makes of a scene, a function of the file: its facts, and its tensors by name.

        Raises:
            AssertionError: a rank failed, or hangs; with what it said.
        """
        while len(self.workers) < world:
            self.workers.append(self._started())
        port = free_port()
        answers = [Path(tempfile.mkdtemp(dir=self.folder)) for _ in range(world)]
        for rank, (worker, answer) in enumerate(zip(self.workers, answers, strict=False)):
            task = {"scene": scene, "given": given, "answer": str(answer)}
            task["environment"] = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
            task["environment"] |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            worker.stdin.write(json.dumps(task) + "\n")
            worker.stdin.flush()
        try:
            return [self._answer(rank, answer) for rank, answer in enumerate(answers)]
        except AssertionError:
            self.close()
            raise

    def _started(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
        command = [sys.executable, __file__, str(self.scenes)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)

    def _answer(self, rank, folder):
        end = time.monotonic() + SECONDS
        while not (folder / "done").exists():
            assert time.monotonic() < end, f"rank {rank} hangs"
            assert self.workers[rank].poll() is None, f"rank {rank} is gone"
            time.sleep(0.01)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        assert "error" not in facts, f"rank {rank}: {facts['error']}"
        tensors = folder / "tensors.safetensors"
        return facts, load_file(tensors) if tensors.exists() else {}

    def close(self):
        """End the processes."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
            worker.stdin.close()
        self.workers = []


def require_equal(answers, one, tolerance=1e-10):
    """Processes found the losses, norms, counts and gradients that one process found."""
    facts, gradients = one
    for found, _ in answers:
        for name in ("losses", "norms", "evaluated"):
            assert found[name] == pytest.approx(facts[name], rel=tolerance), name
        assert (found["tokens"], found["correct"]) == (facts["tokens"], facts["correct"])
    whole = assembled(answers)
    assert whole.keys() == gradients.keys()
    for name, gradient in gradients.items():
        # What is nearly nothing is compared with the largest of its weight: after many steps it stands on all of them.
        close = max(tolerance * float(gradient.abs().max()), tolerance / 100)
        torch.testing.assert_close(
            whole[name], gradient, rtol=tolerance, atol=close, msg=lambda text, n=name: f"{n}: {text}"
        )


def cases(all_of_them, always):
    """Parameters of a test, of which all but some run by `make layouts` only."""
    assert set(always) <= set(all_of_them)
    return [case if case in always else pytest.param(case, marks=pytest.mark.layouts) for case in all_of_them]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def assembled(answers):
    """Whole tensors from the pieces that ranks gave, with their places as the fact ``pieces``.

    Every element must be there, and those that several ranks have must be the same bits.
    """
    whole, known = {}, {}
    for facts, tensors in answers:
        for name, tensor in tensors.items():
            piece = Piece(**facts["pieces"][name])
            ranges = tuple(slice(start, start + n) for start, n in zip(piece.starts, piece.lengths, strict=True))
            if name not in whole:
                whole[name] = torch.full(piece.shape, float("nan"), dtype=tensor.dtype)
                known[name] = torch.zeros(piece.shape, dtype=torch.bool)
            there, seen = whole[name][ranges], known[name][ranges]
            assert torch.equal(there[seen], tensor[seen]), f"{name} differs between ranks"
            whole[name][ranges], known[name][ranges] = tensor, True
    for name, seen in known.items():
        assert bool(seen.all()), f"a part of {name} is nowhere"
    return whole


def _scenes(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def main():
    """Run the scenes that are asked for on standard input, one after another."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    scenes = _scenes(Path(sys.argv[1]))
    for line in sys.stdin:
        task = json.loads(line)
        os.environ.update({name: str(value) for name, value in task["environment"].items()})
        folder = Path(task["answer"])
        try:
            facts, tensors = getattr(scenes, task["scene"])(**task["given"])
            if tensors:
                held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
                save_file(held, folder / "tensors.safetensors")
        except Exception:
            facts = {"error": traceback.format_exc()}
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        (folder / "done").touch()


if __name__ == "__main__":
    main()
