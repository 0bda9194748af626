"""Published ways to evaluate: how many episodes of which split, and in which environment.

`paper` is the last test of Irie et al. 2024 (section 4, and the test at the end of the training in its code): the most
probable actions; DMLab 3 x 100 episodes, ProcGen 200 on the training levels and 200 on each of three ranges of unseen
levels, Atari 5 x 30 with up to 30 no-ops at the start. Two things are ours: its test seeds were seeds of the training,
here they are of the split test; and returns of Atari are those of whole games.

`machado2018` follows Machado et al. 2018, "Revisiting the Arcade Learning Environment", section 5: Atari with sticky
actions (probability 0.25), no no-ops, games of at most 108,000 frames. How many games are played is not theirs: they
average over the last ones of the training.

`default` plays 3 x 100 held-out episodes of any task in the environment of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from r2ac.envs import Split, Task
from r2ac.launch.settings.config import ConfigError, require

# What an episode is. The rest is what the agent sees, does and how often, which stays as in its training.
_OF_AN_EPISODE = {
    "atari": (
        *("sticky_actions", "max_noops", "fire_on_reset", "episodic_life"),
        *("max_episode_frames", "max_episode_steps"),
    ),
}


@dataclass(frozen=True)
class EvaluationConfig:
    """How the episodes of one result are played: the `Settings` of these names with every choice made. Raises
    ConfigError for a number below 1."""

    episodes: int = 100
    seeds: int = 3
    greedy: bool = False
    split: Split = "test"
    num_envs: int = 25
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("episodes", "seeds", "num_envs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate, by suite."""

    name: Literal["default", "paper", "machado2018"]
    parts: Mapping[str, tuple[EvaluationConfig, ...]]
    """What is played of the tasks of a suite, by its name."""
    others: tuple[EvaluationConfig, ...] = ()
    """The same for all other suites; nothing where the protocol does not know them."""
    greedy: bool = False
    presets: Mapping[str, str] = field(default_factory=dict)
    """Which of a suite's presets says what an episode is; where none does, it is as in training."""


_DEFAULT = (EvaluationConfig(100, 3),)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", {}, others=_DEFAULT),
        Protocol(
            "paper",
            {
                "dmlab": _DEFAULT,
                "procgen": (EvaluationConfig(200, 1, split="train"), EvaluationConfig(200, 3)),
                "atari": (EvaluationConfig(30, 5),),
            },
            greedy=True,
            presets={"atari": "paper"},
        ),
        Protocol("machado2018", {"atari": _DEFAULT}, presets={"atari": "machado2018"}),
    )
}


@dataclass(frozen=True)
class Settings:
    """How to play: a protocol, and what is said in its place."""

    protocol: Literal["default", "paper", "machado2018"] = "default"
    """How to play, where the flags below say nothing else. default: 3 x 100 episodes, split test. paper (Irie et al.
    2024), greedy: DMLab 3 x 100; ProcGen 200 on training levels, 3 x 200 on unseen ones; Atari 5 x 30 with no-ops.
    machado2018: Atari, 3 x 100 with sticky actions and without no-ops."""
    episodes: int | None = None
    """Episodes for each seed; the protocol's if not given."""
    seeds: int | None = None
    """Evaluation seeds, the protocol's if not given; with split test none is ever used in training."""
    split: Split | None = None
    """Which episodes to play: test (held out), or train (as in training; with ProcGen, on the training levels); the
    protocol's if not given."""
    greedy: bool = False
    """Take the most probable action instead of drawing from the policy."""
    num_envs: int = 25
    """Environments stepped together. Each engine of DMLab is a process of 200 to 400 MB."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; 0: none but the task's own limit; as in training if not given."""
    step_timeout: float | None = None
    """Seconds after which a Ray task whose environments do not return from a step is given up (DMLab: the engine is
    replaced); 0: never; as in training if not given."""
    device: str = "auto"
    """Where the agents run: cpu; cuda: each Ray task gets a share of a GPU; auto: the CPU, or with --workers 0 the GPU
    where there is one."""

    @staticmethod
    def of(protocol: str) -> Settings:
        """What a protocol prescribes."""
        return Settings(PROTOCOLS[protocol].name, greedy=PROTOCOLS[protocol].greedy)

    def environment(self, task: Task, trained: Any) -> Any:
        """The options to play with, for an agent that was trained with the options ``trained`` of the same suite;
        raises InvalidOption where the task cannot run with them."""
        suite, changed = task.suite, dict[str, Any]()
        if (preset := PROTOCOLS[self.protocol].presets.get(suite.name)) is not None:
            changed |= {name: getattr(suite.presets[preset], name) for name in _OF_AN_EPISODE[suite.name]}
        asked = {name: getattr(self, name) for name in ("max_episode_steps", "step_timeout")}
        changed |= {name: value for name, value in asked.items() if value is not None}
        return task.checked_options(replace(trained, **changed))

    def configs(self, task: Task) -> list[tuple[EvaluationConfig, tuple[str, ...]]]:
        """How each part of the protocol is to be played, and the names of the settings that are not the protocol's.

        Where one split is asked for, only the parts of that split; where the protocol has none, as many episodes as its
        first part. Raises ConfigError where the protocol does not know the task's suite, or a number is below 1.
        """
        protocol = PROTOCOLS[self.protocol]
        parts = protocol.parts.get(task.suite.name, protocol.others)
        if not parts:
            known = " and ".join(protocol.parts)
            raise ConfigError(f"--protocol is {self.protocol}, which is for {known} and not for {task.name}")
        if self.split is not None:
            parts = tuple(part for part in parts if part.split == self.split) or parts[:1]
        return [self._config(part) for part in parts]

    def _config(self, part: EvaluationConfig) -> tuple[EvaluationConfig, tuple[str, ...]]:
        prescribed = replace(part, greedy=PROTOCOLS[self.protocol].greedy)
        names = ("episodes", "seeds", "split", "greedy")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        config = replace(part, **chosen, num_envs=self.num_envs, device=self.device)
        changed = [name for name in names if getattr(config, name) != getattr(prescribed, name)]
        return config, (*changed, *(["max_episode_steps"] if self.max_episode_steps is not None else []))
