"""The stub notifier: records and answers as told, for the tour and for trials; must never reach outside."""
