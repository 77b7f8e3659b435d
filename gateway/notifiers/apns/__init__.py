"""The APNs notifier: Apple's push service over HTTP/2; must never tell Apple a device id or an account."""
