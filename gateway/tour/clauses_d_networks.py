"""Clauses D1 to D16 beside real servers of other networks: prosody, Synapse, ngircd, Dovecot with OpenSMTPD, a Bluesky
PDS, each with a person there who uses the network's own client library; raises Failed where it does not hold, and says
which network is not shown because its server is not installed."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Sequence
from typing import Any

import httpx

from gateway.model.im_people import Item, ItemKind
from gateway.tour.fleet import Fleet
from gateway.tour.im_networks import Net
from gateway.tour.im_scene import Person, Scene, im_scene, left_out
from gateway.tour.stage import Stage, check, eventually

FOUR = ("xmpp", "matrix", "irc", "mail")
PLACE = (48.2010, 16.3695)


async def _ann(scene: Scene) -> tuple[Person, dict[str, int]]:
    """With an account on each network that is there."""
    ann = await scene.person("Ann", "+491511234567")
    accounts = {net.name: await ann.bind(net) for net in scene.nets}
    if "matrix" in accounts:
        # there one is invited to a conversation, and answers
        await scene.until(lambda: ann.of(ItemKind.FRIEND_REQUEST), "the invitation on Matrix")
        by = ann.of(ItemKind.FRIEND_REQUEST)[0].by
        assert by is not None
        answer = await ann.im.ask("answer", account=str(accounts["matrix"]), remote_id=by.remote_id, accept=True)
        check((await ann.result(answer["number"])).state == "sent", "the invitation could not be accepted")
    return ann, accounts


def _to(net: Net, account: int) -> dict[str, Any]:
    conversation = net.peer.conversation
    return {"account": account, "conversation": conversation.remote_id, "kind": str(conversation.kind)}


def _names(scene: Scene) -> str:
    return ", ".join(f"{net.name} ({net.server})" for net in scene.nets)


async def bind(_stage: Stage, _fleet: Fleet) -> str:
    """D1: register; bind accounts; a wrong password is told at once."""
    async with im_scene(*FOUR) as scene:
        ann, accounts = await _ann(scene)
        for net in scene.nets:
            wrong = await ann.bind(net, net.wrong, f"{net.name} again")

            def told(number: int = wrong) -> list[Item]:
                found = ann.of(ItemKind.ACCOUNT)
                return [item for item in found if item.account == number and item.state == "bad_credentials"]

            await scene.until(told, f"that the password at {net.server} is wrong", 30.0)
        states = {one["number"]: one["state"] for one in await ann.im.accounts()}
        check(all(states[number] == "connected" for number in accounts.values()), f"states: {states}")
        scene.check_private(
            *(
                value
                for net in scene.nets
                for value in {**net.credentials, **net.wrong}.values()
                if "pw" in value or "of-the" in value
            )
        )
        return (
            f"a user by a code in a short message; accounts bound and connected: {_names(scene)}; each with a wrong "
            f"password: bad_credentials at once{left_out(FOUR)}"
        )


async def receive(_stage: Stage, _fleet: Fleet) -> str:
    """D2: what comes in on every network lands on one device, labelled by its source."""
    async with im_scene(*FOUR) as scene:
        ann, accounts = await _ann(scene)
        for net in scene.nets:
            await net.peer.say(f"über {net.name} 👋")
        await scene.until(lambda: len(ann.messages()) == len(scene.nets), "a message from each network", 30.0)
        for net in scene.nets:
            (item,) = ann.messages(accounts[net.name])
            envelope = item.envelope
            assert envelope is not None
            check(envelope.network == net.name, f"{net.name} is labelled {envelope.network}")
            check(f"über {net.name} 👋" in envelope.text, f"{net.name}: another text")
        async with scene.http() as http:
            header = await ann.over_rest(http)
            page = (await http.get("/v1/im/history", params={"limit": 500}, headers=header)).json()
        sources = [item["envelope"]["network"] for item in page["items"] if item["kind"] == "message"]
        check(sorted(sources) == sorted(accounts), f"REST has {sources}")
        scene.check_private("über")
        return f"one device, one connection: messages from {_names(scene)}, each with its source{left_out(FOUR)}"


async def broadcast(_stage: Stage, _fleet: Fleet) -> str:
    """D3, D4: one message to friends on several networks at once, with a result for each."""
    async with im_scene(*FOUR) as scene:
        ann, accounts = await _ann(scene)
        bad = {"account": accounts[scene.nets[0].name] + 4711, "conversation": "nobody"}
        to = [_to(net, accounts[net.name]) for net in scene.nets]
        verdicts = await ann.im.send([*to, bad], "an alle: 18 Uhr", subject="Treffen")
        check(verdicts[-1]["state"] == "refused", f"somebody else's account: {verdicts[-1]}")
        for net, verdict in zip(scene.nets, verdicts, strict=False):
            result = await ann.result(verdict["number"])
            check(result.state == "sent", f"{net.name}: {result.state} {result.reason}")
            heard = await net.peer.hear()
            check("an alle: 18 Uhr" in heard.text, f"{net.name} heard something else")
        scene.check_private("an alle")
        return f"one call, {len(to)} recipients, a result each, heard by: {_names(scene)}{left_out(FOUR)}"


def _tone() -> bytes:
    """A second of A, as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(
            b"".join(struct.pack("<h", int(9_000 * math.sin(i * math.tau * 440 / 8_000))) for i in range(8_000))
        )
    return out.getvalue()


def _picture() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(out, "PNG")
    return out.getvalue()


async def _upload(http: httpx.AsyncClient, header: dict[str, str], data: bytes, name: str) -> str:
    """By tus, cut in two as after a lost connection; the name of the file here."""
    import base64

    tus = {**header, "tus-resumable": "1.0.0"}
    meta = "filename " + base64.b64encode(name.encode()).decode()
    made = await http.post("/v1/im/uploads", headers={**tus, "upload-length": str(len(data)), "upload-metadata": meta})
    check(made.status_code == 201, f"the upload was refused: {made.status_code} {made.text}")
    place, half = made.headers["location"], len(data) // 2
    kind = {"content-type": "application/offset+octet-stream"}
    first = await http.patch(place, headers={**tus, **kind, "upload-offset": "0"}, content=data[:half])
    check(first.status_code == 204, f"the first half was refused: {first.status_code} {first.text}")
    at = int((await http.head(place, headers=tus)).headers["upload-offset"])
    last = await http.patch(place, headers={**tus, **kind, "upload-offset": str(at)}, content=data[at:])
    check(last.status_code in (200, 204), f"the rest was refused: {last.status_code} {last.text}")
    return str(last.headers["upload-media"])


async def media(_stage: Stage, _fleet: Fleet) -> str:
    """D6, D7, D8: a picture, a clip and a place, sent on each network the way that network does it, and received."""
    async with im_scene(*FOUR) as scene:
        ann, accounts = await _ann(scene)
        picture, tone = _picture(), _tone()
        async with scene.http() as http:
            header = await ann.over_rest(http)
            files = {
                "dot.png": (picture, await _upload(http, header, picture, "dot.png")),
                "tone.wav": (tone, await _upload(http, header, tone, "tone.wav")),
            }
            for net in scene.nets:
                to = _to(net, accounts[net.name])
                for data, ref in files.values():
                    (verdict,) = await ann.im.send(to, "", media=[ref])
                    result = await ann.result(verdict["number"])
                    check(result.state == "sent", f"{net.name}: {result.state} {result.reason}")
                    heard = await net.peer.hear()
                    got = heard.file if net.has_files else await _behind_link(http, heard.text)
                    check(got == data, f"{net.name}: {len(got)} bytes of {len(data)} arrived")
                (verdict,) = await ann.im.send(to, "", geo={"latitude": PLACE[0], "longitude": PLACE[1]})
                check((await ann.result(verdict["number"])).state == "sent", f"{net.name}: the place was not sent")
                where = (await net.peer.hear()).geo
                check(where == PLACE, f"{net.name}: the place arrived as {where}")
            for net in (net for net in scene.nets if net.has_files):
                await net.peer.say_file(picture, "image/png", "from-you.png")
                account = accounts[net.name]

                def came(account: int = account) -> list[Item]:
                    return [item for item in ann.messages(account) if item.envelope and item.envelope.media]

                await scene.until(came, f"a picture from {net.server}", 30.0)
                envelope = came()[0].envelope
                assert envelope is not None
                file = envelope.media[0]
                got = (await http.get(f"/v1/im/media/{file.ref}", headers=header)).content
                check(got == picture, f"{net.name}: another picture came, {len(got)} bytes")
                check(file.thumbnail and (file.width, file.height) == (640, 480), f"{net.name}: no thumbnail")
        scene.check_private("from-you", "tone.wav")
        return (
            f"a picture, a second of sound and a place to {_names(scene)}: the same bytes in the other's own client, "
            f"on IRC behind a signed link; pictures back, with thumbnails{left_out(FOUR)}"
        )


async def _behind_link(http: httpx.AsyncClient, text: str) -> bytes:
    link = next((word for word in text.split() if word.startswith("http")), "")
    check(link, "no link came")
    answer = await http.get(link)
    check(answer.status_code == 200, f"the link answers {answer.status_code}")
    return answer.content


async def sites(_stage: Stage, _fleet: Fleet) -> str:
    """D12, D13: new items of a bound site are pushed; a message to the site's name is posted there."""
    async with im_scene("bluesky") as scene:
        net = scene.nets[0]
        ann = await scene.person("Ann", "+491511234567")
        account = await ann.bind(net, name="sky")
        await net.peer.say("news from Bob")
        await scene.until(lambda: ann.messages(account), "the new item", 30.0)
        envelope = ann.messages(account)[0].envelope
        assert envelope is not None
        check((envelope.kind, envelope.text) == ("post", "news from Bob"), f"it came as {envelope.kind}")
        (verdict,) = await ann.im.send({"site": "sky"}, "to: sky")
        result = await ann.result(verdict["number"])
        check(result.state == "sent", f"the post was not taken: {result.reason}")
        heard = await net.peer.hear()
        check(heard.text == "to: sky", "something else was posted")
        scene.check_private("news from Bob")
        return "a Bluesky PDS: an item of somebody one follows came; a message to the name `sky` was posted there"


async def mailbox(_stage: Stage, _fleet: Fleet) -> str:
    """D14, D15: new mail of bound mailboxes and of the user's own in the service's domain is pushed; mail is sent."""
    import asyncio
    import smtplib
    from email.message import EmailMessage

    settings = ("im.mail_domain=im.test", "im.mail_port=0")

    def sends_by(nets: Sequence[Net]) -> Sequence[str]:
        smtp = nets[0].credentials["smtp_port"]
        return ("im.smtp_host=127.0.0.1", f"im.smtp_port={smtp}", "im.smtp_tls=never", "im.smtp_from=codes@im.test")

    async with im_scene("mail", settings=settings, of_nets=sends_by) as scene:
        net, port = scene.nets[0], scene.stage.im_mail_port
        ann = await scene.person("Ann", "+491511234567")
        account = await ann.bind(net)
        await net.peer.say("per Brief")
        await scene.until(lambda: ann.messages(account), "the mail of the bound mailbox", 30.0)
        to = {**_to(net, account)}
        (verdict,) = await ann.im.send(to, "Antwort folgt", subject="Re: Brief")
        check((await ann.result(verdict["number"])).state == "sent", "the mail was not sent")
        heard: Any = await net.peer.hear()
        check("Antwort folgt" in heard.text, "another mail arrived")
        await ann.im.ask("change_profile", mailbox="ann")
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "shop@other.test", "ann@im.test", "Rechnung"
        mail["Message-ID"] = "<1@other.test>"
        mail.set_content("anbei")
        mail.add_attachment(_picture(), maintype="image", subtype="png", filename="rechnung.png")

        def deliver() -> list[int]:
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
                smtp.send_message(mail)
                smtp.send_message(mail)  # whoever heard no answer sends it again
                smtp.ehlo()
                smtp.mail("shop@other.test")
                return [smtp.rcpt("nobody@im.test")[0], smtp.rcpt("ann@elsewhere.test")[0]]

        codes = await asyncio.to_thread(deliver)
        check(all(550 <= code < 560 for code in codes), f"unknown mailbox and foreign domain: {codes}")
        mailbox = next(one["number"] for one in await ann.im.accounts() if one["network"] == "mailbox")
        await scene.until(lambda: ann.messages(mailbox), "the mail of the own mailbox")
        own = ann.messages(mailbox)
        envelope = own[0].envelope
        assert envelope is not None
        check((len(own), envelope.subject) == (1, "Rechnung"), f"{len(own)} mails came")
        check(envelope.media and envelope.media[0].mime == "image/png", "its picture did not come")
        (verdict,) = await ann.im.send({**_to(net, account), "account": "mailbox"}, "von hier", subject="Eigene")
        check((await ann.result(verdict["number"])).state == "sent", "the mail from the own mailbox was not sent")
        check("von hier" in (await net.peer.hear()).text, "another mail arrived")
        scene.check_private("Rechnung", "per Brief", "shop@other.test")
        return (
            "Dovecot and OpenSMTPD: a mail came by IDLE, one was sent; mail to ann@im.test came as it arrived, "
            "once, with its picture, and one went out from there; an unknown mailbox and a foreign domain are "
            "refused at RCPT"
        )


async def away(_stage: Stage, _fleet: Fleet) -> str:
    """D16: while the device is off line its connectors disconnect; when it is back they reconnect and catch up."""
    resuming = tuple(name for name in FOUR if name != "irc")  # IRC keeps nothing for who is away
    async with im_scene(*resuming) as scene:
        ann, accounts = await _ann(scene)

        async def sessions() -> str:
            page = (await scene.stage.call("GET", "/metrics")).text
            return next(line.split()[1] for line in page.splitlines() if line.startswith("heliograph_im_sessions "))

        check(float(await sessions()) == len(scene.nets), f"{await sessions()} sessions of {len(scene.nets)}")
        await ann.leave()

        async def none() -> bool:
            return float(await sessions()) == 0

        await eventually(none, "that the connectors disconnect", 20.0)
        for number in range(10):
            for net in scene.nets:
                await net.peer.say(f"away {number}")
        check(float(await sessions()) == 0, "an account was connected while its device was away")
        await ann.come()
        for net in scene.nets:
            account = accounts[net.name]
            await scene.until(
                lambda account=account: len(ann.messages(account)) == 10,  # type: ignore[misc]
                f"what was said meanwhile on {net.name}",
                40.0,
            )
        for net in scene.nets:
            texts = [item.envelope.text.strip() for item in ann.messages(accounts[net.name]) if item.envelope]
            check(texts == [f"away {number}" for number in range(10)], f"{net.name}: {texts}")
        for net in scene.nets:
            await net.peer.say("after")
        await scene.until(lambda: len(ann.messages()) == 11 * len(scene.nets), "what was said after", 30.0)
        return (
            f"{_names(scene)}: no session 0.5 s after the device had gone; 10 messages each while it was away came in "
            f"order, none twice, when it was back{left_out(resuming)}"
        )


CLAUSES = {
    "D1": ("register, bind accounts", bind),
    "D2": ("received, labelled by source", receive),
    "D4": ("one message to many networks", broadcast),
    "D6": ("picture, clip and place", media),
    "D12": ("a social site, both ways", sites),
    "D14": ("mail, both ways", mailbox),
    "D16": ("away and back", away),
}
#: clauses without a row of their own, and the row in which they are shown
SHOWN_BY = {"D3": "D4", "D7": "D6", "D8": "D6", "D13": "D12", "D15": "D14"}
