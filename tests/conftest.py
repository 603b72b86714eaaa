"""What holds for all tests."""

import signal

# Whoever starts the tests in the background of a shell, or with nohup, has them ignore a signal, and so would each
# command that they type Ctrl-C to or whose terminal they close: a signal that is ignored stays so in children.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# Ended by a time limit, the tests clean up as after Ctrl-C.
if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
