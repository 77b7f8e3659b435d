"""`geo:` URIs (RFC 5870): its own examples, any place there and back, any text at all."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.geo import GeoError, build_geo, check_geo, find_geo, parse_geo
from gateway.model.im import Geo

places = st.builds(
    Geo,
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(-1e4, 1e6),
)


@pytest.mark.parametrize(
    ("uri", "geo"),
    [
        ("geo:13.4125,103.8667", Geo(13.4125, 103.8667)),  # RFC 5870 §6.1
        ("geo:48.2010,16.3695,183", Geo(48.2010, 16.3695, altitude_m=183.0)),  # §6.1
        ("geo:48.198634,16.371648;crs=wgs84;u=40", Geo(48.198634, 16.371648, 40.0)),  # §1
        ("GEO:66,30;U=6.500;FOo=this%2dthat", Geo(66.0, 30.0, 6.5)),  # §6.4
        ("geo:90,-22.43", Geo(90.0, 0.0)),  # §6.4: any longitude at the poles
        ("geo:22.300,-180", Geo(22.3, 180.0)),
    ],
)
def test_places_are_read(uri: str, geo: Geo) -> None:
    assert parse_geo(uri) == geo


@pytest.mark.parametrize(
    "uri",
    ["geo:91,0", "geo:0,181", "geo:1", "geo:1,2;crs=moon", "geo:1,2;u=x", "geo:1,2;u=1;u=2", "geo:1e5,2", "geo:١,٢"],
)
def test_what_is_no_place_on_earth_is_refused(uri: str) -> None:
    with pytest.raises(GeoError):
        parse_geo(uri)


def test_a_place_is_found_in_a_text() -> None:
    assert find_geo("wo? geo:48.2,16.4;u=5, beim Brunnen") == Geo(48.2, 16.4, 5.0)


@given(places)
def test_a_place_comes_back_as_it_was(geo: Geo) -> None:
    there, back = check_geo(geo), parse_geo(build_geo(geo))
    assert back.latitude == pytest.approx(there.latitude, abs=1e-8)
    assert abs(back.longitude - there.longitude) % 360 == pytest.approx(0, abs=1e-8) or abs(there.latitude) > 89.99999


@given(st.text(max_size=200) | st.text("geo:0123456789.,;=-ucrsw%", max_size=80))
def test_any_text_is_a_place_or_a_geo_error(text: str) -> None:
    find_geo(text)
    with contextlib.suppress(GeoError):
        parse_geo(text)
