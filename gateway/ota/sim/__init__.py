"""A simulated card in a simulated terminal, to try all of it without either; must never be part of what a gateway
serves. Here, and only here below gateway/ota, is a socket."""
