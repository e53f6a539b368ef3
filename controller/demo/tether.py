"""Shell: runs a command that ends when its parent does, however that ends: `tether PARENT COMMAND...` (Linux).

The kernel is asked for a SIGTERM at the parent's death, and then this process becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, command = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # it ended before the kernel was asked
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
