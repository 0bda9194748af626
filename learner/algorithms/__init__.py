"""The algorithms by the names that ``--algorithm`` takes."""

from r2ac.learner.algorithms.actor_critic import VTRACE
from r2ac.learner.algorithms.algorithm import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    "vtrace": VTRACE,
}
