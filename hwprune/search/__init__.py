"""Search: proposes widths, evaluates few of them truly, keeps the best trade-offs.

``space`` and ``problem`` say what is searched, ``evaluation`` spends the budget and writes the ``journal``, ``archive``
keeps every true evaluation, ``portfolio`` and ``survival`` select, ``breeding`` and ``local_search`` look for
candidates, ``forecast`` (on ``surrogate``, ``trend``, ``regressors``) tells what to expect of them, and
``proposal`` takes those that promise most ``expected_hypervolume``; ``methods`` holds one file a method. Methods that
look inside the ``network`` search parts of it (``filters``, ``subsearch``, ``reconstruction``, ``subnetworks``,
``joint``) or its single weights (``masks``); ``compute`` counts.
"""
