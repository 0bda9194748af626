"""Steps a second of RLlib's IMPALA with an LSTM: one line of JSON. A part of throughput.py, which says the settings.

RLlib is a part of Ray, but wants packages that r2ac does not need. Install them beside r2ac, or beside a second r2ac,
whose Python ``throughput.py --rllib-python`` names:

    pip install dm_tree lz4 ormsgpack pandas pyarrow pydantic tensorboardX

The same as in r2ac: the environment and its preprocessing, the encoder (r2ac's own, as the tokenizer of RLlib's
catalog, so that the convolutions are the same), the size of the recurrent core, T, B, the number of actors and of
environments of each, one thread for an actor, V-trace. Different: the core is torch's LSTM, trained by TBPTT, and does
not read the last reward; environments are Gymnasium's single ones in a SyncVectorEnv, which is how RLlib makes them
from any environment; the optimiser is Adam.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import _path  # noqa: F401
import gymnasium
from throughput_setting import Setting, read_setting

from r2ac.envs import make_vector
from r2ac.envs.single import as_image
from r2ac.launch.cluster import connect as cluster

PACKAGES = ("dm_tree", "lz4", "ormsgpack", "pandas", "pyarrow", "pydantic", "tensorboardX")
WARM_UP = 0.5
"""Of the measured time; it begins with the first update."""
START_SECONDS = 120


def make_environment(task: str, seed: int) -> gymnasium.Env:
    """The task as one Gymnasium environment whose images are [C, H, W], as the encoder reads them."""
    from environments import make_single

    if task.startswith("procgen/"):
        # Loads the engine without the old `gym`.
        make_vector(task, 1, 0).close()
    env = make_single(task, seed)
    return as_image(env) if task.startswith("procgen/") else env


def make_catalog() -> type:
    """RLlib's catalog with r2ac's encoder below the LSTM."""
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.models.base import ENCODER_OUT, Encoder
    from ray.rllib.core.models.configs import ModelConfig
    from ray.rllib.core.models.torch.base import TorchModel

    from r2ac.agents.encoders import EncoderName, make_encoder

    class OwnEncoder(TorchModel, Encoder):
        def __init__(self, config: Any) -> None:
            TorchModel.__init__(self, config)
            Encoder.__init__(self, config)
            self.net, _ = make_encoder(config.input_dims, config.name, config.features)

        def _forward(self, input_dict: dict, **kwargs: Any) -> dict:
            return {ENCODER_OUT: self.net(input_dict[Columns.OBS])}

    class OwnEncoderConfig(ModelConfig):
        def __init__(self, shape: tuple[int, ...], name: EncoderName, features: int) -> None:
            super().__init__(input_dims=shape)
            self.name, self.features = name, features

        @property
        def output_dims(self) -> tuple[int]:
            return (make_encoder(self.input_dims, self.name, self.features)[1],)

        def build(self, framework: str = "torch") -> Any:
            return OwnEncoder(self)

    class OwnCatalog(PPOCatalog):
        @classmethod
        def get_tokenizer_config(
            cls, observation_space: Any, model_config_dict: dict, view_requirements: Any = None
        ) -> Any:
            own = model_config_dict["r2ac_encoder"]
            return OwnEncoderConfig(observation_space.shape, own["name"], own["features"])

    return OwnCatalog


def learner_threads(setting: Setting) -> int:
    """The cores that the actors leave, at least one."""
    return max(1, setting.threads - setting.actors)


def make_config(setting: Setting) -> Any:
    """IMPALA's configuration."""
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    task = setting.task
    register_env("r2ac", lambda context: make_environment(task, context.worker_index))
    model = asdict(DefaultModelConfig(use_lstm=True, lstm_state_size=setting.hidden, max_seq_len=setting.length))
    model["r2ac_encoder"] = {"name": setting.encoder, "features": setting.features}
    on_gpu = setting.device.startswith("cuda")
    # On the CPU as many threads as r2ac's learner has; RLlib wants either cores or a GPU to be named.
    learner = {"num_gpus_per_learner": 1} if on_gpu else {"num_cpus_per_learner": learner_threads(setting)}
    return (
        IMPALAConfig()
        .environment("r2ac")
        .env_runners(
            num_env_runners=setting.actors,
            num_envs_per_env_runner=setting.streams,
            rollout_fragment_length=setting.length,
        )
        .learners(num_learners=1, **learner)
        .training(train_batch_size_per_learner=setting.length * setting.batch, lr=6e-4, gamma=0.99)
        .rl_module(rl_module_spec=RLModuleSpec(catalog_class=make_catalog(), model_config=model))
        .reporting(min_time_s_per_iteration=1)
    )


def counts(result: dict[str, Any]) -> tuple[float, float]:
    """Steps that were sampled and that were learned from, since the start."""
    sampled = result.get("env_runners", {}).get("num_env_steps_sampled_lifetime", 0)
    learned = result.get("learners", {}).get("__all_modules__", {}).get("num_env_steps_trained_lifetime", 0)
    return float(sampled), float(learned)


def measure(algorithm: Any, seconds: float) -> dict[str, float]:
    """Steps a second, sampled and learned from, of the time after the warm-up."""
    began = time.monotonic()
    while counts(algorithm.train())[1] == 0:
        if time.monotonic() - began > START_SECONDS:
            sys.exit(f"RLlib's IMPALA has learned nothing in {START_SECONDS} s")
    warm = time.monotonic() + WARM_UP * seconds
    first = counts(algorithm.train())
    while time.monotonic() < warm:
        first = counts(algorithm.train())
    began = time.monotonic()
    last = first
    while time.monotonic() < began + seconds:
        last = counts(algorithm.train())
    elapsed = time.monotonic() - began
    sampled, learned = ((b - a) / elapsed for a, b in zip(first, last, strict=True))
    return {"steps_per_second": sampled, "learned_per_second": learned}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    setting, _ = read_setting(argparse.ArgumentParser(description=__doc__), arguments)
    # Before RLlib is imported: Ray reads how it is to be started when it is imported first.
    connection = cluster.connect("local", num_actors=setting.actors + learner_threads(setting))
    try:
        algorithm = make_config(setting).build_algo()
        figures = measure(algorithm, setting.seconds)
        algorithm.stop()
    except ImportError as error:
        sys.exit(f"RLlib cannot be imported ({' '.join(str(error).split())}): pip install {' '.join(PACKAGES)}")
    finally:
        connection.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
