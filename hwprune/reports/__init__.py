"""A run as files for people: ``front.csv``, ``front.png`` and ``report.html``; reads run folders, runs nothing."""
