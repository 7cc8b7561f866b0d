"""Becomes the command it is given, asking the kernel first to end it together with its parent.

Run as a script, `launch.py PARENT_PID COMMAND...`, so that no Python code runs between fork and exec in
the supervisor, which has threads. Where the kernel knows no such wish (macOS), `tollgate down` finds what
is left.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the command, unless the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the supervisor is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
