"""Rules of section `service`; must never change a value."""

from __future__ import annotations

from gateway.config.sections import Config


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    # a page may wait for the device's answer, and then for an SMSC's
    most_s, smsc_s = config.delivery.notifier_timeout_s, config.paging.smsc_answer_s
    if not config.paging.smscs or smsc_s >= most_s:  # that one is section paging's to say
        smsc_s = 0
    if config.service.link_answer_s + smsc_s >= most_s:
        message = f"with paging.smsc_answer_s it is not shorter than delivery.notifier_timeout_s = {most_s:_}"
        return [("service.link_answer_s", message)]
    return []


def advice(config: Config) -> list[tuple[str, str]]:  # noqa: ARG001
    """Nothing to think about."""
    return []
