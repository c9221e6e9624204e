"""A porter's beginning: `python -P -m torchserve_guard.porters`, its end of the channel as standard input."""

import signal

# A signal to everything of the service (a terminal's, systemd's) is the guard's to answer: it tells its porters.
for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(ignored, signal.SIG_IGN)

from torchserve_guard.porters.porter import main  # noqa: E402 - signals come first

if __name__ == "__main__":
    main()
