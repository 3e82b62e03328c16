"""`llamahost` and `python -m llamahost`. Ctrl-C ends it quietly, also while its modules are still being imported.

A SIGHUP that comes to `serve` so early is kept until there is a manifest to read again.
"""

import signal
import sys

from llamahost.api.hang_up import keep_hang_ups


def main() -> None:
    # Not where it is ignored, as it is for what a script's shell put into the background.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    if sys.argv[1:2] == ["serve"]:
        keep_hang_ups()

    def hear() -> None:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    from llamahost.cli import main as command

    command(hear)


if __name__ == "__main__":
    main()
