"""How much a model test tries: the same steps in every run, few enough for each commit.

BEDPLATE_MODEL_EXAMPLES=N tries N histories instead, BEDPLATE_MODEL_SHRINK=1 makes a failing one
small, which takes minutes. Hypothesis prints the steps of a failing history as a program.
"""

import os

from hypothesis import HealthCheck, Phase, settings

SHRINK = "BEDPLATE_MODEL_SHRINK" in os.environ


def bounded(examples: int, steps: int) -> settings:
    """So many histories of at most so many steps."""
    return settings(
        max_examples=int(os.environ.get("BEDPLATE_MODEL_EXAMPLES", examples)),
        stateful_step_count=steps,
        deadline=None,
        phases=[Phase.generate] + [Phase.shrink] * SHRINK,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
