"""Places as text (D8): `geo:` URIs (RFC 5870), for networks that know no places; must never raise anything but
GeoError, and never takes a place outside the globe."""

from __future__ import annotations

import re

from gateway.model.im import Geo

_NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,15})?"
_PARAMETER = r";[A-Za-z0-9-]{1,32}(?:=[A-Za-z0-9\-_.!~*'()%\[\]:&+$]{0,256})?"
#: RFC 5870 §3.3, with bounds; schemes and parameter names have no case
_URI = re.compile(rf"geo:({_NUMBER}),({_NUMBER})(?:,({_NUMBER}))?((?:{_PARAMETER}){{0,16}})", re.IGNORECASE | re.ASCII)


class GeoError(ValueError):
    """This is no place on earth."""


def check_geo(geo: Geo) -> Geo:
    """The same, its longitude 180 where it was -180 and 0 at the poles (RFC 5870 §3.4.2). GeoError."""
    if not (-90.0 <= geo.latitude <= 90.0 and -180.0 <= geo.longitude <= 180.0):
        raise GeoError("latitudes go from -90 to 90 degrees, longitudes from -180 to 180")
    if geo.accuracy_m is not None and not 0.0 <= geo.accuracy_m < float("inf"):
        raise GeoError("an uncertainty is no negative number of metres")
    if geo.altitude_m is not None and not abs(geo.altitude_m) < 1e9:
        raise GeoError("an altitude is a number of metres")
    longitude = 0.0 if abs(geo.latitude) == 90.0 else 180.0 if geo.longitude == -180.0 else geo.longitude
    return Geo(geo.latitude, longitude, geo.accuracy_m, geo.altitude_m)


def parse_geo(uri: str) -> Geo:
    """GeoError."""
    found = _URI.fullmatch(uri.strip())
    if found is None:
        raise GeoError("expected geo:latitude,longitude as in RFC 5870")
    accuracy: float | None = None
    names = set()
    for parameter in found[4].split(";")[1:]:
        name, _, value = parameter.lower().partition("=")
        if name in names:
            raise GeoError("a parameter stands twice")
        names.add(name)
        if name == "crs" and value != "wgs84":
            raise GeoError("only WGS 84 is understood")
        if name == "u":
            if re.fullmatch(_NUMBER, value, re.ASCII) is None:
                raise GeoError("an uncertainty is a number of metres")
            accuracy = float(value)
    return check_geo(Geo(float(found[1]), float(found[2]), accuracy, None if found[3] is None else float(found[3])))


def find_geo(text: str) -> Geo | None:
    """The first place in a text."""
    for found in _URI.finditer(text):
        try:
            return parse_geo(found[0])
        except GeoError:
            continue
    return None


def build_geo(geo: Geo) -> str:
    """A URI, without exponents."""
    uri = f"geo:{_plain(geo.latitude)},{_plain(geo.longitude)}"
    if geo.altitude_m is not None:
        uri += f",{_plain(geo.altitude_m)}"
    if geo.accuracy_m is not None:
        uri += f";u={_plain(geo.accuracy_m)}"
    return uri


def _plain(number: float) -> str:
    text = f"{number:.9f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
