"""The page that tells where a training's time went, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """Where a training's time went."""

    on_gpu: bool
    updates: int
    """Of the whole run."""
    traced: int
    """Updates in the trace."""
    skipped: int
    """Updates before the trace."""
    loop: Mapping[str, float]
    """Seconds of each phase of the learner's loop."""
    parts: Mapping[str, float]
    """Seconds of each part of the traced updates."""
    actors: Mapping[str, float]
    """Seconds of what the rollout actors do, summed over all of them."""
    workers: InferenceStatistics | None = None
    """What the inference workers have done; None where there are none."""

    def rows(self) -> list[tuple[str, str]]:
        """A short table: name and shares, for the terminal."""
        named = [("learner's loop", self.loop), ("updates", self.parts), ("rollout actors", self.actors)]
        named.append(("inference workers", self._workers()))
        rows = [(name, _sentence(percentages(seconds))) for name, seconds in named]
        return [(name, shares) for name, shares in rows if shares]

    def advice(self) -> list[str]:
        """What the numbers suggest, a few sentences."""
        loop, parts, actors = percentages(self.loop), percentages(self.parts), percentages(self.actors)
        sentences = [_who_waits(loop, actors)] if self.updates else []
        if parts:
            sentences.append(_what_an_update_takes(parts, self.on_gpu))
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
        """One page."""
        blocks = ["# Where the time went", "## The learner's loop", self._about_loop(), *_table("phase", self.loop)]
        blocks += ["## Inside an update", self._about_parts(), *_table("part", self.parts)]
        blocks += ["## The rollout actors", self._about_actors(), *_table("doing", self.actors)]
        if self.workers is not None:
            blocks += ["## The inference workers", self._about_workers(), *_table("doing", self._workers())]
        blocks += ["## How to read this", "\n".join(f"- {sentence}" for sentence in self.advice()), _FILES]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def _about_loop(self) -> str:
        about = (
            f"{sum(self.loop.values()):,.1f} s of the learner's main thread, {self.updates:,} updates, counted from "
            "the first one on. Waiting is for rollouts."
        )
        if self.on_gpu:
            about += " On a GPU an update is only enqueued: the thread waits for it where it publishes its weights."
        return about

    def _about_parts(self) -> str:
        if not self.traced:
            return (
                f"No update was traced: the first {self.skipped} are left out, and the run had {self.updates}. "
                "A longer run (--total-steps) has some."
            )
        clock = "kernels on the GPU" if self.on_gpu else "the learner's main thread"
        about = (
            f"{self.traced} updates after the first {self.skipped}, time of {clock}; each moment counts once. Backward "
            "is told by the operators that it goes back through. Sensitivities are the pass over S (boundary term and "
            "jump); what the backward scan notes for it lies in core backward. Optimiser has the clipping; copies are "
            "the carries, and of the batch's way to the device what lies within the update; metrics are the losses' "
            "means and rtrl/*. Other is the rest: autograd's own work, adding up gradients, Python between the parts. "
            "The profiler itself slows small operations down."
        )
        if self.on_gpu:
            about += " A profiled run does without the CUDA graph, which hides the parts: others are faster."
        return about

    def _about_actors(self) -> str:
        if not self.actors:
            return "Not measured."
        if "waiting" not in self.actors:
            return "The learner's process steps the environments itself, while its loop is waiting."
        return f"{sum(self.actors.values()):,.1f} s, summed over all actors. Waiting is for weights and the learner."

    def _workers(self) -> dict[str, float]:
        return {} if self.workers is None else {"computing": self.workers.seconds, "idle": self.workers.idle}

    def _about_workers(self) -> str:
        done = self.workers
        if done is None or not done.batches:
            return "They were not asked."
        return (
            f"{done.batches:,} batches, of {done.requests / done.batches:.1f} groups of streams in the mean, which "
            f"took {1e3 * done.seconds / done.batches:.2f} ms each; since they were first asked, summed over all "
            "workers. What actors wait for beyond that is the way there and back, and the batches of others."
        )


_FILES = """Open `learner-trace.json.gz` (the traced updates) and `ray-timeline.json` (Ray's tasks), where they are, in
https://ui.perfetto.dev or chrome://tracing."""


def _who_waits(loop: Mapping[str, float], actors: Mapping[str, float]) -> str:
    learner, others = loop.get("waiting", 0.0), actors.get("waiting", 0.0)
    if actors and "waiting" not in actors:
        return (
            f"The loop spends {learner:.1f} % on collecting rollouts itself: with --num-actors 1 or more, on a machine "
            "with cores to spare, actors collect while it learns."
        )
    found = f"The learner waits {learner:.1f} % of its time" + (f", the actors {others:.1f} %" if actors else "")
    if learner > WAITS and others > WAITS:
        return f"{found}: they take turns. More --streams-per-actor or --rollouts-in-flight keep both busy."
    if learner > WAITS:
        return f"{found}: rollouts are the bottleneck. More --num-actors (where there are cores) give more of them."
    if others > WAITS:
        return f"{found}: the learner is the bottleneck. Make updates cheaper; fewer --num-actors would do."
    return f"{found}: " + ("the two keep pace with each other." if actors else "rollouts come fast enough.")


def _what_an_update_takes(parts: Mapping[str, float], on_gpu: bool) -> str:
    encoder = parts.get("encoder forward", 0) + parts.get("encoder backward", 0)
    core = parts.get("core forward", 0) + parts.get("core backward", 0)
    found = (
        f"Of an update the encoder takes {encoder:.1f} %, the core {core:.1f} %, the sensitivities of RTRL "
        f"{parts.get('sensitivities', 0):.1f} %."
    )
    if encoder < 50:
        return f"{found} Small operations count: a larger --batch-size or --rollout-length makes a step cheaper."
    cheaper = "--encoder-precision bfloat16, --matmul-precision high" if on_gpu else "more --learner-threads"
    return f"{found} Its encoder is what to make cheaper: --encoder nature (for images), {cheaper}."


def _sentence(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1f} %" for name, share in shares.items() if share > 0)


def _table(what: str, seconds: Mapping[str, float]) -> list[str]:
    """A Markdown table in one block; none where nothing was measured."""
    shares = percentages(seconds)
    if not shares:
        return []
    lines = [f"| {what} | share | seconds |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {share:.1f} % | {seconds[name]:,.3f} |" for name, share in shares.items()]
    return ["\n".join(lines)]
