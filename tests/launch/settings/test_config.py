"""What is derived from the settings of a training, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.flags import training_config
from r2ac.launch.settings.presets import preset
from r2ac.learner.config import ON_POLICY

TASK = "memory/tmaze"


def with_learner(config: TrainConfig[Any], **values: Any) -> TrainConfig[Any]:
    return replace(config, learner=replace(config.learner, **values))


def test_the_label_names_the_agent_and_an_algorithm_that_is_not_the_default_one() -> None:
    config = preset(TASK, algorithm="vtrace")
    assert (config.label, with_learner(config, algorithm="ppo").label) == ("rtrl", "ppo rtrl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("vtrace_lambda", "gae_lambda", "trace_lambda") for value in (-0.1, 1.1)],
        *[(name, 0) for name in ("clip_range", "clip_range_vf", "target_kl", "n_epochs", "num_minibatches")],
        *[("step_bound", -1.0), ("refresh_every", -1), ("refresh_rollouts", 0)],
    ],
)
def test_numbers_of_an_algorithm_have_bounds(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is {value}, but it must be"):
        with_learner(preset(TASK), **{name: value}).check()


@pytest.mark.parametrize("algorithm", sorted(ON_POLICY))
@pytest.mark.parametrize(
    "flags", [[], ["--streams-per-actor", "6", "--num-actors", "2"], ["--num-actors", "4", "--num-learners", "2"]]
)
def test_on_policy_a_batch_is_all_streams_and_nothing_is_ahead(algorithm: str, flags: list[str]) -> None:
    config = training_config(TASK, ["--algorithm", algorithm, *flags])
    config.check()
    assert (config.batch_size, config.rollouts_in_flight) == (config.num_streams, 1)


def test_a_core_that_one_gradient_can_train_has_it() -> None:
    config = training_config(TASK, ["--core", "lstm"])
    config.check()
    assert (config.agent.gradient, config.label) == ("tbptt", "ppo lstm tbptt")
    frozen = training_config(TASK, ["--freeze-core"])
    frozen.check()
    assert (frozen.agent.gradient, frozen.label) == ("tbptt", "ppo frozen")
    assert training_config(TASK, ["--core", "feedforward"]).label == "ppo feedforward"
    assert training_config(TASK, ["--layers", "2"]).label == "ppo 2-layer rtrl"
    assert training_config(TASK, ["--layers", "2", "--core", "lru"]).label == "ppo 2-layer lru rtrl"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--core gru --gradient rtrl", "--gradient is rtrl, but it must be tbptt with --core gru"),
        ("--core feedforward --gradient rtrl", "--gradient is rtrl, but --core feedforward has no memory to train"),
        ("--freeze-core --gradient rtrl", "--gradient is rtrl, but it must be tbptt with --freeze-core"),
        ("--freeze-core --refresh-every 9", "without sensitivities (frozen)"),
        ("--batch-size 32", "--batch-size is 32, but it must be 64 with --algorithm ppo"),
        ("--rollouts-in-flight 2", "--rollouts-in-flight is 2, but it must be 1 with --algorithm ppo"),
        ("--publish-every 2", "--publish-every is 2, but it must be 1 with --algorithm ppo"),
        ("--max-policy-lag 9", "--max-policy-lag is 9, but it must be 0 with --algorithm ppo"),
        ("--num-minibatches 5", "--num-minibatches is 5, but it must be a divisor of the 64 streams of a learner"),
        ("--num-actors 2 --num-learners 2 --num-minibatches 128", "a divisor of the 64 streams of a learner"),
        ("--refresh-every 9 --gradient tbptt", "--refresh-every is 9, but it must be 0 with an agent that is trained"),
        ("--refresh-every 9 --core feedforward", "without sensitivities (feedforward)"),
        ("--algorithm stream --rollout-length 5", "--rollout-length is 5, but it must be 1 with --algorithm stream"),
        ("--trace-lambda=0.5", "--trace-lambda is a setting of --algorithm stream or td, but the algorithm is ppo"),
        ("--algorithm td --entropy-cost 1", "--entropy-cost is a setting of --algorithm vtrace or ppo or stream, but"),
        ("--clip-rho 2", "--clip-rho is a setting of --algorithm vtrace, but the algorithm is ppo"),
        (
            "--algorithm vtrace --no_normalise_advantage",
            "--no-normalise-advantage is a setting of --algorithm ppo, but the algorithm is vtrace",
        ),
    ],
)
def test_what_does_not_go_with_an_algorithm_is_one_sentence(
    flags: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", TASK, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
