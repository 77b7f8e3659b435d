"""Why a device can not reach its gateway, in words."""

from __future__ import annotations

import logging
import ssl

import pytest

from gateway.client.link import Complaints


def build_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] some words (_ssl.c:2580)")
    error.reason = reason
    return error


def build_refusal(words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = words
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (build_refusal("self-signed certificate"), "The gateway's certificate was refused: self-signed certificate."),
        (build_refusal("Hostname mismatch."), "The gateway's certificate was refused: Hostname mismatch."),
        (build_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "The gateway refused TLS: certificate required."),
        (build_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "The gateway refused TLS: handshake failure."),
        (build_error("WRONG_VERSION_NUMBER"), "TLS with the gateway failed: WRONG_VERSION_NUMBER."),
        (ConnectionRefusedError(111, "refused"), "The gateway can not be reached."),
        (TimeoutError(), "The gateway can not be reached."),
    ],
)
def test_what_is_wrong_is_a_sentence(error: OSError, words: str) -> None:
    assert Complaints().note(error) == words


def test_the_log_has_each_complaint_once_and_sentences_in_it_end(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            complaints.note(build_refusal("unable to get local issuer certificate"))
    said = "The gateway's certificate was refused: unable to get local issuer certificate. Trying again."
    assert caplog.messages == [said]


@pytest.mark.parametrize("error", [None, ConnectionResetError(), build_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")])
def test_a_connection_that_ended_without_a_word_was_cut(error: Exception | None) -> None:
    assert Complaints().note_cut(error) == "The connection was cut."


def test_an_alert_behind_the_handshake_says_why() -> None:
    cut = Complaints().note_cut(build_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"))
    assert cut == "The gateway refused TLS: certificate required."
