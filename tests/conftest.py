"""What every test starts from."""

import signal


def pytest_configure() -> None:
    # A run in the background may ignore Ctrl-C, and programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
