"""The Web Push notifier: any browser's push service; must never follow a subscription into a private network."""
