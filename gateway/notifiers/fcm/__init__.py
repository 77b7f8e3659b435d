"""The FCM notifier: Firebase Cloud Messaging, HTTP v1; must never tell Google a device id or an account."""
