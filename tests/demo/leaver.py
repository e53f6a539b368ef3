"""A child that starts a child of its own, says so, and waits for a signal that ends only itself."""

import signal
import subprocess
import sys

other = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL, start_new_session=True
)
print(other.pid, flush=True)
signal.pause()
