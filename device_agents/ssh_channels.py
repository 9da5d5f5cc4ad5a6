"""A paramiko transport that says nothing on a channel after closing it.

``Channel.send`` of paramiko lets go of the channel's lock before its data go out, so that they can come behind the
``CHANNEL_CLOSE`` of another thread. OpenSSH ends the whole connection at data for a channel that it does not know any
more; where that is a jump host's, every board behind it is lost with the one whose connection was closed.
"""

from __future__ import annotations

from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_REQUEST

#: What may be late; window adjustments are let pass by OpenSSH.
_LATE = {MSG_CHANNEL_CLOSE, MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_REQUEST}


class Transport(paramiko.Transport):
    """As paramiko's; what comes too late for a channel is left out.

    Args:
        sock: what it runs over.
    """

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._ended: set[int] = set()

    def open_channel(self, *args: Any, **options: Any) -> paramiko.Channel:
        """As of paramiko's: the other side may give a number again that a channel had before."""
        channel = super().open_channel(*args, **options)
        self._ended.discard(channel.remote_chanid)
        return channel

    def _send_message(self, data: paramiko.Message) -> None:
        # Called for one message at a time: paramiko holds ``clear_to_send_lock`` for all that concern channels.
        text = data.asbytes()
        if text[0] in _LATE:
            number = int.from_bytes(text[1:5], "big")
            if number in self._ended:
                return
            if text[0] == MSG_CHANNEL_CLOSE:
                self._ended.add(number)
        super()._send_message(data)  # type: ignore[misc]  # private, so the stubs leave it out
