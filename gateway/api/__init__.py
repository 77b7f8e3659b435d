"""The provider door: HTTP in and out; decides nothing about delivery and must never log a key, a token or an alias."""
