"""What people see of a training run: the metrics file, the trackers, the screen."""

import json
import struct
import sys
import threading
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from preceptor.core.errors import ConfigError
from preceptor.core.progress import Progress
from preceptor.footprint.live import LiveMeter
from preceptor.footprint.meter import Reading
from preceptor.models.step_flops import StepFlops
from preceptor.objectives.batch import Batches
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.parallel.engine import place
from preceptor.train import watch as watching
from preceptor.train.hooks import Board, MetricsLog, StepMeter, Watcher, Workload
from preceptor.train.length import Length
from preceptor.train.run import PretrainingConfig
from preceptor.train.state import StepRecord, TrainState
from preceptor.train.trackers import Stage, numbers, open_trackers
from preceptor.train.tracking_config import TrackingConfig, require_loggers
from preceptor.train.watch import step_flops_of, watch

WORKLOAD = Workload(lambda step: 4, 16, StepFlops(1000, 10), 50_000.0, torch.device("cpu"))


def record(step, tokens=None, validation=None, **extra):
    return StepRecord(step, tokens or 32 * step, 2.5, 0.1, 1.5, False, validation_loss=validation, **extra)


def test_speed_and_share_of_the_peak_are_those_of_the_hardware():
    meter = StepMeter(WORKLOAD, 100, lambda: 7.0)
    measures = meter(record(4, tokens=150), 0.5)
    assert measures["tokens_per_second"] == 4 * 16 / 0.5
    assert measures["share_of_peak"] == pytest.approx((4 * 1000 + 50 * 10) / 0.5 / 50_000)
    assert measures["memory_bytes"] > 1e7 and measures["joules"] == 7.0
    assert "accelerator_memory_bytes" not in measures
    # A validation is no training.
    assert "tokens_per_second" not in meter(record(5, tokens=200, validation=2.0), 9.0)
    assert meter(record(6, tokens=250), 0.5) == pytest.approx(measures, abs=1e8)


def test_where_every_step_validates_the_speed_is_given_all_the_same():
    meter = StepMeter(WORKLOAD, 0, lambda: None)
    measures = meter(record(1, validation=2.0), 1.0)
    assert measures["tokens_per_second"] == 64 and "joules" not in measures


def test_a_log_gets_every_figure_in_one_line(capsys):
    with Progress("pretrain", 10, "steps") as progress:
        board = Board(progress, 3, lambda: 10)
        board.show(record(4, validation=2.25), {"tokens_per_second": 6.4e4, "share_of_peak": 0.5, "memory_bytes": 4e8})
        board.show(record(5), {"memory_bytes": 4.1e8, "joules": 1234.0})
    said = capsys.readouterr().err
    assert "pretrain  5/10 steps  50 %  loss 2.500 · validation 2.250 · learning rate 1.00e-01 · norm 1.50" in said
    assert "64,000 tokens/s · 50 % of peak · 410 MB · 1.2 kJ · 0.0 s left" in said


def test_the_number_of_steps_of_a_budget_is_that_of_the_last_estimate(capsys):
    estimates = iter((8, 8, 20, 20))
    with Progress("pretrain", None, "steps") as progress:
        board = Board(progress, 0, lambda: next(estimates))
        board.show(record(1), {"tokens_per_second": 10.0, "memory_bytes": 4e8})
        board.show(record(2), {"tokens_per_second": 10.0, "memory_bytes": 4e8})
    assert "pretrain  2/20 steps  10 %" in capsys.readouterr().err


def test_whatever_else_was_measured_at_a_step_is_told_too(tmp_path):
    told = []
    watcher = Watcher(
        StepMeter(WORKLOAD, 0, lambda: None),
        MetricsLog(tmp_path / "s.jsonl", 0),
        [SimpleNamespace(log=lambda step, measures: told.append((step, measures)))],
        SimpleNamespace(show=lambda record, measures: None),
    )
    watcher(record(1, measures={"validation_loss.law": 1.5}), 0.5)
    assert json.loads((tmp_path / "s.jsonl").read_text())["validation_loss.law"] == 1.5
    assert told[0][0] == 1 and told[0][1]["validation_loss.law"] == 1.5


def test_the_metrics_file_has_all_measures_of_a_step(tmp_path):
    log = MetricsLog(tmp_path / "metrics" / "pretrain.jsonl", 0)
    log(record(1, validation=2.0), 0.25, {"tokens_per_second": 64.0, "joules": 3.0})
    (line,) = (tmp_path / "metrics" / "pretrain.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told.pop("at") > 1e9
    assert told == {
        "step": 1,
        "tokens": 32,
        "loss": 2.5,
        "learning_rate": 0.1,
        "grad_norm": 1.5,
        "validation_loss": 2.0,
        "tokens_per_second": 64.0,
        "joules": 3.0,
        "seconds": 0.25,
    }


def events(folder):
    """What TensorBoard would read: its record format by hand, a length, its checksum, the event, its checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        raw = path.read_bytes()
        while raw:
            (length,) = struct.unpack("<Q", raw[:8])
            found.append(Event.FromString(raw[12 : 12 + length]))
            raw = raw[16 + length :]
    return found


def test_tensorboard_gets_the_measures_and_a_resumed_run_says_which_steps_no_longer_count(tmp_path):
    for resumed, steps in ((0, range(1, 6)), (3, range(4, 7))):
        with open_trackers(TrackingConfig(), Stage("pretrain-abc", tmp_path, {}, resumed)) as (tracker,):
            for step in steps:
                tracker.log(step, {"loss": 1 / step, "joules": 2.0 * step})
    found = events(tmp_path / "tensorboard" / "pretrain-abc")
    starts = [event.step for event in found if event.HasField("session_log")]
    assert starts == [1, 4]
    kept: dict[int, float] = {}
    for event in found:
        if event.HasField("session_log"):
            kept = {step: loss for step, loss in kept.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "loss":
                assert event.step not in kept
                kept[event.step] = value.simple_value
    assert kept == pytest.approx({step: 1 / step for step in range(1, 7)})


class Heard:
    """A stand-in for the modules of the three, which writes down what it is told."""

    def __init__(self, monkeypatch):
        self.calls = []
        for name in ("wandb", "mlflow", "mlflow.entities", "mlflow.tracking", "trackio"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID"):
            monkeypatch.setenv(name, "elsewhere")
        run = SimpleNamespace(
            log=self.note("log"), finish=self.note("finish"), define_metric=self.note("define_metric")
        )
        for name in ("wandb", "trackio"):
            sys.modules[name].init = self.note("init", run)
        sys.modules["wandb"].Settings = dict
        sys.modules["mlflow.entities"].Metric = lambda *given: given
        sys.modules["mlflow.tracking"].MlflowClient = self.client

    def note(self, name, answer=None):
        def call(*given, **named):
            self.calls.append((name, given, named))
            return answer

        return call

    def client(self, tracking_uri):
        self.calls.append(("client", (), {"tracking_uri": tracking_uri}))
        created = SimpleNamespace(info=SimpleNamespace(run_id="r1"))
        return SimpleNamespace(
            get_experiment_by_name=self.note("get"),
            create_experiment=self.note("create_experiment", "e1"),
            create_run=self.note("create_run", created),
            log_param=self.note("log_param"),
            log_batch=self.note("log_batch"),
            set_terminated=self.note("set_terminated"),
        )

    def of(self, name):
        return [(given, named) for called, given, named in self.calls if called == name]


@pytest.fixture
def heard(monkeypatch):
    return Heard(monkeypatch)


def tell(config, folder):
    stage = Stage("pretrain-abc", folder, {"optimizer": {"kind": "muon"}})
    with open_trackers(config, stage) as trackers:
        for step in (1, 2):
            for tracker in trackers:
                tracker.log(step, {"loss": 3.0 - step})


def test_weights_and_biases_stay_on_this_machine_unless_told_otherwise(heard, tmp_path):
    tell(TrackingConfig(loggers=("wandb",), project="mine"), tmp_path)
    (_, named) = heard.of("init")[0]
    assert named["mode"] == "offline" and named["project"] == "mine" and named["name"] == "pretrain-abc"
    assert named["dir"] == str(tmp_path) and named["config"] == {"optimizer": {"kind": "muon"}}
    assert [given[0] for given, _ in heard.of("log")] == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert len(heard.of("finish")) == 1
    tell(TrackingConfig(loggers=("wandb",), online=True, name="first"), tmp_path)
    (_, named) = heard.of("init")[1]
    assert named["mode"] == "online" and named["name"] == "first"


def test_mlflow_writes_into_the_folder_and_reports_nothing_of_its_use(heard, tmp_path, monkeypatch):
    import os

    tell(TrackingConfig(loggers=("mlflow",)), tmp_path)
    assert heard.of("client")[0][1]["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert heard.of("log_param") == [(("r1", "optimizer.kind", "muon"), {})]
    ((given, named),) = heard.of("log_batch")
    assert given == ("r1",) and [(m[0], m[1], m[3]) for m in named["metrics"]] == [("loss", 2.0, 1), ("loss", 1.0, 2)]
    assert heard.of("set_terminated") == [(("r1",), {})]


def test_trackio_writes_into_the_folder_whatever_the_environment_says(heard, tmp_path):
    import os

    tell(TrackingConfig(loggers=("trackio",)), tmp_path)
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "trackio") and "TRACKIO_SPACE_ID" not in os.environ
    assert [(given, named) for given, named in heard.of("log")] == [
        (({"loss": 2.0},), {"step": 1}),
        (({"loss": 1.0},), {"step": 2}),
    ]
    assert len(heard.of("finish")) == 1


def test_a_tracker_that_fails_on_the_way_is_told_of_once_and_dropped(heard, tmp_path, capsys):
    def full(*given, **named):
        raise OSError("no space left")

    sys.modules["wandb"].init = lambda **named: SimpleNamespace(
        log=full, finish=heard.note("finish"), define_metric=full if named["project"] == "early" else heard.note("")
    )
    for project in ("late", "early"):
        with open_trackers(
            TrackingConfig(loggers=("wandb", "tensorboard"), project=project), Stage("s", tmp_path, {})
        ) as trackers:
            for step in range(1, 4):
                for tracker in trackers:
                    tracker.log(step, {"loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("warning: wandb failed and is told no more; training goes on (OSError: no space left)") == 2
    assert not heard.of("finish")
    losses = [event for event in events(tmp_path / "tensorboard" / "s") if event.summary.value]
    assert len(losses) == 6


def test_nobody_waits_for_a_tracker_that_is_slow(heard, tmp_path):
    gate = threading.Event()
    sys.modules["wandb"].init = lambda **named: SimpleNamespace(
        log=lambda row: gate.wait(), finish=heard.note("finish"), define_metric=heard.note("")
    )
    with open_trackers(TrackingConfig(loggers=("wandb",)), Stage("s", tmp_path, {})) as (tracker,):
        for step in range(100):
            tracker.log(step, {"loss": 1.0})
        gate.set()
    assert len(heard.of("finish")) == 1


def test_a_logger_that_is_not_installed_is_refused_with_how_to_install_it():
    require_loggers(TrackingConfig(), "pretraining.tracking")
    with pytest.raises(ConfigError, match=r"pretraining\.tracking\.loggers names 'mlflow'") as refused:
        require_loggers(TrackingConfig(loggers=("mlflow",)), "pretraining.tracking")
    assert "python -m pip install mlflow" in refused.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"loggers": ("wandb", "wandb")},
        {"online": True},
        {"mlflow_uri": "http://host"},
        {"project": ""},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrackingConfig(**wrong)


def test_trackers_get_numbers_alone():
    assert numbers({"loss": 1, "skipped": True, "what": "x", "norm": float("nan"), "rate": 0.5}) == {
        "loss": 1.0,
        "rate": 0.5,
    }


def test_a_peak_that_cannot_be_measured_costs_its_figure_alone(monkeypatch, capsys):
    def full(*given):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(watching, "reached_flops", full)
    assert watching._peak_flops(SimpleNamespace(device="cpu", dtype=torch.float32)) is None
    assert "the share of the peak is not shown" in capsys.readouterr().err
    with Progress("pretrain", 1, "steps") as progress:
        measures = StepMeter(replace(WORKLOAD, peak_flops=None), 0, lambda: None)(record(1), 0.5)
        Board(progress, 0, lambda: 1).show(record(1), measures)
    assert measures.keys() == {"tokens_per_second", "memory_bytes"}
    assert "128 tokens/s · " in capsys.readouterr().err


class Rows:
    """Two documents in rows of eight."""

    num_rows = 2

    def collate(self, rows, samples=None):
        import numpy as np

        tokens = np.arange(1, 17, dtype=np.uint32)
        return collate_rows(plan_rows(np.array([0, 8, 16], dtype=np.int64), 8), rows, tokens, 0)


def test_a_stage_is_watched_from_its_first_step_to_its_last(tmp_path, capsys):
    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig

    config = DecoderConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=8,
    )
    engine = place(build(config, torch.Generator().manual_seed(0)))
    state = TrainState(step=1, tokens=16, cost={"joules": 100.0})
    cost = LiveMeter(SimpleNamespace(read=lambda: Reading(joules=5.0)), seconds_between=0.01)
    path = tmp_path / "metrics" / "pretrain-abc.jsonl"
    settings = PretrainingConfig(context_length=8, batch_tokens=16, micro_batch_tokens=16)
    batches = Batches(Rows(), 0, 2, 2)
    flops = step_flops_of(engine.model, batches)
    with watch("pretrain", settings, engine, batches, state, Length.of_steps(3), path, cost, flops) as (hook,):
        ended = time.monotonic() + 60
        while not cost.latest.joules and time.monotonic() < ended:
            time.sleep(0.01)
        hook(record(2, tokens=32), 0.5)
        hook(record(3, tokens=48, validation=1.5), 0.5)
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["joules"] == 105.0 and first["tokens_per_second"] == 32.0 and 0 < first["share_of_peak"] < 1
    assert second["validation_loss"] == 1.5 and "tokens_per_second" not in second
    assert "pretrain  3/3 steps  100 %  loss 2.500 · validation 1.500" in capsys.readouterr().err
    tags = {
        v.tag for event in events(tmp_path / "metrics" / "tensorboard" / "pretrain-abc") for v in event.summary.value
    }
    assert tags >= {"loss", "validation_loss", "joules", "memory_bytes", "tokens_per_second", "seconds"}
    assert "step" not in tags
