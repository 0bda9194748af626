"""The page that shows where a training's time went, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from r2ac.launch.rollouts.inference.acting_agent import InferenceStatistics

OTHER = "other"
WAITS, MUCH = 20.0, 10.0
"""Percent from which advice says something: of waiting, and of what should be small."""


def percentages(seconds: Mapping[str, float]) -> dict[str, float]:
    """Shares in percent, to a tenth, largest first but for "other"; they add up to 100.0. Empty for no time at all."""
    total = sum(seconds.values())
    if total <= 0:
        return {}
    exact = {name: 1000 * spent / total for name, spent in seconds.items()}
    tenths = {name: int(share) for name, share in exact.items()}
    # What rounding down left over goes to those that lost most by it.
    by_loss = sorted(exact, key=lambda name: tenths[name] - exact[name])
    for name in by_loss[: 1000 - sum(tenths.values())]:
        tenths[name] += 1
    names = sorted(exact, key=lambda name: (name == OTHER, -exact[name]))
    return {name: tenths[name] / 10 for name in names}


@dataclass(frozen=True)
class ProfileSummary:
    """Where a training's time went, in seconds: by phase of the learner's loop, by part of the traced updates, and by
    what all rollout actors and all inference workers do. ``traced`` of all updates are traced, after ``skipped``."""

    on_gpu: bool
    updates: int
    traced: int
    skipped: int
    loop: Mapping[str, float]
    parts: Mapping[str, float]
    actors: Mapping[str, float]
    workers: InferenceStatistics | None = None
    on_policy: bool = False
    timeline: bool = False
    """Whether Ray's timeline was written."""

    @property
    def worker_seconds(self) -> dict[str, float]:
        """Seconds of what the inference workers do, summed over all of them."""
        return {} if self.workers is None else {"computing": self.workers.seconds, "idle": self.workers.idle}

    def rows(self) -> list[tuple[str, str]]:
        """A short table: name and shares, for the terminal."""
        named = [("learner's loop", self.loop), ("updates", self.parts), ("rollout actors", self.actors)]
        named.append(("inference workers", self.worker_seconds))
        return [
            (name, ", ".join(f"{what} {share:.1f} %" for what, share in percentages(seconds).items() if share > 0))
            for name, seconds in named
            if sum(seconds.values()) > 0
        ]

    def advice(self) -> list[str]:
        """What the numbers suggest, a few sentences."""
        loop, parts, actors = percentages(self.loop), percentages(self.parts), percentages(self.actors)
        sentences = [_who_waits(loop, actors, self.on_policy)] if self.updates else []
        if parts:
            sentences.append(_what_an_update_takes(parts, self.on_gpu, self.on_policy))
        if actors.get("inference", 0) > actors.get("environment", 0):
            sentences.append(
                "The actors' networks take more time than their environments: more streams for each actor "
                "(--streams-per-actor) make a step of the network cheaper."
            )
        # On a GPU the weights are there when the update has ended: publishing waits for it.
        if not self.on_gpu and loop.get("publish", 0) >= MUCH:
            sentences.append(
                f"Publishing takes {loop['publish']:.1f} %: a higher --publish-every publishes more seldom."
            )
        if loop.get("checkpoint", 0) >= MUCH:
            sentences.append(
                f"Checkpoints take {loop['checkpoint']:.1f} %: in a long run less, or raise --checkpoint-minutes."
            )
        return sentences

    def markdown(self) -> str:
        """The page ``profile.md.j2``."""
        # No training but a profiled one needs it.
        from jinja2 import Environment, StrictUndefined

        blocks = Environment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        page = blocks.from_string(Path(__file__).with_name("profile.md.j2").read_text(encoding="utf-8"))
        return page.render(profile=self, percentages=percentages)


def _who_waits(loop: Mapping[str, float], actors: Mapping[str, float], on_policy: bool) -> str:
    learner, others = loop.get("waiting", 0.0), actors.get("waiting", 0.0)
    if actors and "waiting" not in actors:
        found = f"The loop spends {learner:.1f} % on collecting rollouts itself"
        if on_policy:
            return f"{found}: where there are cores, --num-actors 2 with half the --streams-per-actor share that."
        return f"{found}: with --num-actors 1 or more, where there are cores, actors do that while it learns."
    found = f"The learner waits {learner:.1f} % of its time" + (f", the actors {others:.1f} %" if actors else "")
    if learner > WAITS and others > WAITS:
        if on_policy:
            return f"{found}: they take turns, as the algorithm learns on-policy."
        return f"{found}: more --streams-per-actor or --rollouts-in-flight keep both busy."
    if learner > WAITS:
        return f"{found}: rollouts are the bottleneck. More --num-actors (where there are cores) give more of them."
    if others > WAITS:
        return f"{found}: the learner is the bottleneck. Make updates cheaper; of several --num-actors, fewer would do."
    return f"{found}: " + ("the two keep pace with each other." if actors else "rollouts come fast enough.")


def _what_an_update_takes(parts: Mapping[str, float], on_gpu: bool, on_policy: bool) -> str:
    encoder, core, agent = (
        parts.get(f"{part} forward", 0) + parts.get(f"{part} backward", 0) for part in ("encoder", "core", "agent")
    )
    others = "other sensitivities" if agent else "sensitivities of RTRL"
    shares = {"encoder": encoder, "core": core, "agent with its sensitivities": agent}
    shares[others] = parts.get("sensitivities", 0)
    # What has no time of its own lies in another part, as in a kernel for all of them.
    listed = [f"{part} {share:.1f} %" for part, share in shares.items() if share]
    found = f"Of an update: {', '.join(listed) or 'none of its parts has time of its own'}."
    if encoder < 50:
        larger = "more --streams-per-actor" if on_policy else "a larger --batch-size or --rollout-length"
        return f"{found} Small operations count: {larger} makes a step cheaper."
    cheaper = "--encoder-precision bfloat16, --matmul-precision high" if on_gpu else "more --learner-threads"
    return f"{found} Its encoder is what to make cheaper: --encoder nature (for images; under 36x36 patch), {cheaper}."
