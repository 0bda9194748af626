"""The algorithms by the names that ``--algorithm`` takes."""

from r2ac.learner.algorithms.actor_critic import ActorCritic
from r2ac.learner.algorithms.algorithm import Algorithm
from r2ac.learner.algorithms.ppo import PPO
from r2ac.learner.algorithms.stream import Stream
from r2ac.learner.algorithms.td import TD

ALGORITHMS: dict[str, type[Algorithm]] = {
    "vtrace": ActorCritic,
    "ppo": PPO,
    "stream": Stream,
    "td": TD,
}
