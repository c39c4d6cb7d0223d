"""activity-core: runs checked-in definitions on time and keeps a history that explains every decision.

How an activity runs, in order: ``definition`` (the file) → ``catalog`` (what is in force) → ``trigger``
(when) → ``decide`` (pure) → ``ledger`` (one row per slot) → ``dispatch`` → ``execute`` (context, rule,
shell) → ``ledger``. ``engine`` is the loop around it; ``docs/design`` tells why.
"""

__version__ = "0.1.0"
