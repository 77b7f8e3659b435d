"""One-time codes by short message (D1), over the links of the pagers; must never hold a number longer than its call,
nor let one out in an error."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.sections import Config
from gateway.model.errors import CodeNotSent
from gateway.notifiers.upstream import unix_ms
from gateway.paging.segments import segment_text
from gateway.paging.sms import errors
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.link import SmscLink
from gateway.paging.sms.pdu import ESM_UDHI, NPI_E164, TON_INTERNATIONAL, Address, ShortMessage, build_validity
from gateway.paging.sms.settings import build_source
from gateway.paging.sms.tracking import Part


class SmsCodes:
    """model.im_ports.CodeSender."""

    def __init__(self, config: Config, bearer: SmsBearer, *, clock: Callable[[], int] = unix_ms) -> None:
        self._valid_s = int(config.im.code_s)
        self._source = build_source(config.paging.sms_source)
        self._bearer = bearer
        self._clock = clock

    async def send(self, address: str, code: str) -> None:
        """To a number in E.164 form. CodeNotSent."""
        text = f"{code} is your code. Give it to nobody."
        link: SmscLink | None = None
        until_s = self._clock() // 1000 + self._valid_s
        for segment in segment_text(text, reference=0):
            sm = ShortMessage(
                source=self._source,
                destination=Address(TON_INTERNATIONAL, NPI_E164, address.removeprefix("+")),
                message=segment.user_data,
                esm_class=ESM_UDHI if segment.header else 0,
                validity=build_validity(self._valid_s),
                data_coding=segment.coding,
            )
            try:
                link, answer = await self._bearer.submit(sm, Part(-1, -1, 1, 1), until_s, link)
            except TimeoutError:
                raise CodeNotSent("the SMSC did not answer; a code may come all the same") from None
            if answer.row is not errors.OK:
                raise CodeNotSent(
                    "no SMSC took the message; try again soon", after_ms=max(1_000, answer.retry_after_ms)
                )
