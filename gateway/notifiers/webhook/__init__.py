"""The webhook notifier: asks the app's own server to reach the user; must never follow a redirect."""
