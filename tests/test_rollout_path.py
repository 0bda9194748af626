"""A reader follows a rollout from ``env.step`` to ``optimiser.step`` in one sitting."""

from pathlib import Path

import pytest

from tests.rollout_path import RolloutPath, rollout_path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> RolloutPath:
    return rollout_path(tmp_path_factory.mktemp("path"))


def test_the_whole_way_is_seen(path: RolloutPath) -> None:
    """From the actor through link, source and loop to the agent, its core and the kernel, and to the optimiser."""
    ends = {"launch/rollouts/rollout_actor.py", "launch/train/loop.py", "agents/agent.py", "learner/optimiser.py"}
    assert ends <= path.files.keys()
    assert Path(path.stack[-1].co_filename).parent.name == "kernels"


def test_it_is_short(path: RolloutPath) -> None:
    assert len(path.files) <= 16, sorted(path.files)
    assert path.lines() <= 3200


def test_a_rollout_is_wrapped_twice(path: RolloutPath) -> None:
    assert path.wrappers == {"Collected", "Batch"}


def test_the_recurrence_is_not_deep(path: RolloutPath) -> None:
    assert len(path.stack) <= 11, [code.co_qualname for code in path.stack]
