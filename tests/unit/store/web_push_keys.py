"""The keys of RFC 8291 Appendix A."""

#: base64url: the sender's public key, and one that is no point
POINT = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
