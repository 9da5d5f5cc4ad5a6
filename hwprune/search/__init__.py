"""Search: proposes widths, evaluates few of them truly, keeps the best trade-offs.

``space`` and ``problem`` say what is searched, ``evaluation`` spends the budget and writes the ``journal``, ``archive``
keeps every true evaluation, ``portfolio`` and ``survival`` select, ``operators``, ``local_search`` and ``surrogate``
propose; ``methods`` holds one file a method. Methods that look inside the ``network`` search parts of it (``filters``,
``subsearch``, ``reconstruction``, ``subnetworks``, ``joint``) or its single weights (``masks``); ``compute`` counts.
"""
