"""One module a device type; its file name is the name in the inventory.

Each has ``present(root)``, whether this device is (also) one of that type, ``describe(root)``, the facts about it, and
``state(root)``, what it is doing just now; both as JSON values, None where unknown with the reason under ``missing``.
``root`` is where ``proc`` and ``sys`` lie.
"""
