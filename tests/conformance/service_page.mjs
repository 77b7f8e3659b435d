// A terminal and an app written from docs/service-pages.md alone: reads {token, key, page, aid} from stdin, all bytes in base64,
// checks the page and prints what it says, with the service access request the app would send.

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";

const given = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => Buffer.from(text, "base64");
const key = bytes(given.key);
const page = bytes(given.page);
const token = bytes(given.token);

function hmac(...parts) {
  return createHmac("sha256", key).update(Buffer.concat(parts)).digest();
}

function read() {
  if (page[0] !== 0x81 || page[1] !== 0 || page.length < 60) return { refused: "no page" };
  const end = 48 + page[47];
  if (page.length !== end + 12) return { refused: "length" };
  const id = createHash("sha256").update("heliograph page id\0").update(token).digest().subarray(0, 8);
  if (!id.equals(page.subarray(10, 18))) return { refused: "id" };
  const mac = hmac(Buffer.from("page\0"), page.subarray(0, end)).subarray(0, 12);
  if (!timingSafeEqual(mac, page.subarray(end))) return { refused: "forged" };
  const name = Buffer.from(given.aid, "utf8");
  const aid = name.length ? hmac(Buffer.from("aid\0"), name).subarray(0, 8) : Buffer.alloc(8);
  if (!aid.equals(page.subarray(2, 10))) return { refused: "aid" };
  const ticket = page.subarray(18, 34);
  const params = page.subarray(48, end);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(name.length);
  const proof = hmac(Buffer.from("access\0"), length, name, ticket, page.subarray(46, 47), params);
  return {
    expires: page.readUInt32BE(34),
    counter: page.readBigUInt64BE(38).toString(),
    request: {
      id: token.toString("base64url"),
      aid: given.aid,
      ticket: ticket.toString("base64url"),
      server: page[46],
      proof: proof.toString("base64url"),
      params: params.toString("base64url"),
    },
  };
}

console.log(JSON.stringify(read()));
