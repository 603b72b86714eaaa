"""What holds for all tests."""

import signal

# Whoever starts the tests in the background of a shell has them ignore SIGINT, and so would each command that they type
# Ctrl-C to: a signal that is ignored stays so in children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
