"""The `spillway` command with short waits, for tests that cannot wait half a minute for a remote to be tried again:
`python -m tests.support.impatient run ...`.
"""

import sys
from functools import partial

from controller import main as composition
from controller.__main__ import main
from controller.health import HealthPolicy
from controller.resolution import Config

IMPATIENT = HealthPolicy(window_s=2, rest_s=3, max_rest_s=3)

if __name__ == "__main__":
    vars(composition)["Config"] = partial(Config, health=IMPATIENT)
    sys.exit(main())
