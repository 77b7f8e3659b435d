"""The SMS pager (C8): wakes a terminal by a short message through the operator's SMSCs."""
