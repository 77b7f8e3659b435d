// A push device written from docs/frames.md alone, for Node.js without packages.
//
// The same device as frames_client.py, which says what orders it takes on stdin and what it says on stdout.

import net from "node:net";
import readline from "node:readline";

const TYPES = {
  PING: 0x01, PONG: 0x02, HELLO: 0x03, WELCOME: 0x04, REGISTER: 0x05, TOKEN: 0x06, UNREGISTER: 0x07, NOTIFY: 0x08,
  ACK: 0x09, SHOWN: 0x0a, FETCH: 0x0b, FETCHED: 0x0c, RECALL: 0x0d, STATE: 0x0e, DONE: 0x0f, ERROR: 0x10, GOAWAY: 0x11,
  WHOLE: 0x12,
};
const NAMES = Object.fromEntries(Object.entries(TYPES).map(([name, number]) => [number, name]));
const FROM_DEVICE = new Set(["PING", "HELLO", "REGISTER", "UNREGISTER", "ACK", "WHOLE", "SHOWN", "FETCH", "STATE"]);
const LARGEST = 65536;
const REMEMBERED = 1000;
const BACK_OFF_MS = [700, 1300];

class Broken extends Error {}

// --- msgpack, as much of it as frames have

function head(size, tiny, tinyMax, wide) {
  if (size <= tinyMax) return Buffer.from([tiny | size]);
  if (wide[0] && size <= 0xff) return Buffer.from([wide[0], size]);
  if (size <= 0xffff) return Buffer.from([wide[1], size >> 8, size & 0xff]);
  const long = Buffer.alloc(5, wide[2]);
  long.writeUInt32BE(size, 1);
  return long;
}

function packInt(value) {
  if (value >= 0n && value < 128n) return Buffer.from([Number(value)]);
  if (value < 0n && value >= -32n) return Buffer.from([Number(value + 256n)]);
  const bytes = Buffer.alloc(9, value < 0n ? 0xd3 : 0xcf);
  if (value < 0n) bytes.writeBigInt64BE(value, 1);
  else bytes.writeBigUInt64BE(value, 1);
  return bytes;
}

function pack(value) {
  if (value === null) return Buffer.from([0xc0]);
  if (value === false) return Buffer.from([0xc2]);
  if (value === true) return Buffer.from([0xc3]);
  if (typeof value === "bigint") return packInt(value);
  if (typeof value === "number") {
    if (Number.isInteger(value)) return packInt(BigInt(value));
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    return bytes;
  }
  if (typeof value === "string") {
    const text = Buffer.from(value, "utf8");
    return Buffer.concat([head(text.length, 0xa0, 31, [0xd9, 0xda, 0xdb]), text]);
  }
  if (Buffer.isBuffer(value)) return Buffer.concat([head(value.length, 0, -1, [0xc4, 0xc5, 0xc6]), value]);
  if (Array.isArray(value)) return Buffer.concat([head(value.length, 0x90, 15, [0, 0xdc, 0xdd]), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([head(entries.length, 0x80, 15, [0, 0xde, 0xdf]), ...entries.flat().map(pack)]);
}

class Unpacker {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  take(size) {
    if (this.at + size > this.bytes.length) throw new Broken("msgpack ends early");
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  unsigned(size) {
    const bytes = this.take(size);
    return size === 8 ? narrowed(bytes.readBigUInt64BE()) : bytes.readUIntBE(0, size);
  }

  text(size) {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.take(size));
  }

  array(size) {
    return Array.from({ length: size }, () => this.value());
  }

  map(size) {
    const map = {};
    for (let i = 0; i < size; i++) {
      const key = this.value();
      map[key] = this.value();
    }
    return map;
  }

  ext(size) {
    this.take(1);
    return Buffer.from(this.take(size));
  }

  value() {
    const lead = this.unsigned(1);
    if (lead < 0x80) return lead;
    if (lead < 0x90) return this.map(lead & 0x0f);
    if (lead < 0xa0) return this.array(lead & 0x0f);
    if (lead < 0xc0) return this.text(lead & 0x1f);
    if (lead >= 0xe0) return lead - 256;
    switch (lead) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return Buffer.from(this.take(this.unsigned(1 << (lead - 0xc4))));
      case 0xc7: case 0xc8: case 0xc9: return this.ext(this.unsigned(1 << (lead - 0xc7)));
      case 0xca: return this.take(4).readFloatBE();
      case 0xcb: return this.take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return this.unsigned(1 << (lead - 0xcc));
      case 0xd0: return this.take(1).readInt8();
      case 0xd1: return this.take(2).readInt16BE();
      case 0xd2: return this.take(4).readInt32BE();
      case 0xd3: return narrowed(this.take(8).readBigInt64BE());
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return this.ext(1 << (lead - 0xd4));
      case 0xd9: case 0xda: case 0xdb: return this.text(this.unsigned(1 << (lead - 0xd9)));
      case 0xdc: case 0xdd: return this.array(this.unsigned(lead === 0xdc ? 2 : 4));
      case 0xde: case 0xdf: return this.map(this.unsigned(lead === 0xde ? 2 : 4));
      default: throw new Broken(`no msgpack: ${lead}`);
    }
  }
}

/** A number where it is exact, else a BigInt. */
function narrowed(big) {
  const number = Number(big);
  return Number.isSafeInteger(number) ? number : big;
}

function unpack(bytes) {
  const unpacker = new Unpacker(bytes);
  const value = unpacker.value();
  if (unpacker.at !== bytes.length) throw new Broken("bytes behind the msgpack value");
  return value;
}

// --- frames

function frameOf(name, body) {
  const packed = body === undefined ? Buffer.alloc(0) : pack(body);
  const start = [TYPES[name]];
  let size = packed.length;
  for (; size > 0x7f; size >>>= 7) start.push((size & 0x7f) | 0x80);
  start.push(size);
  return Buffer.concat([Buffer.from(start), packed]);
}

/** The first whole frame of the buffer as {type, packed, end}, or null. */
function firstFrame(buffer, largest) {
  let size = 0;
  for (let at = 1; at <= 4; at++) {
    if (at >= buffer.length) return null;
    size |= (buffer[at] & 0x7f) << (7 * (at - 1));
    if (buffer[at] < 0x80) {
      if (size > largest) throw new Broken("frame too large");
      const end = at + 1 + size;
      return buffer.length < end ? null : { type: buffer[0], packed: buffer.subarray(at + 1, end), end };
    }
  }
  throw new Broken("length of more than four bytes");
}

function plain(_key, value) {
  if (typeof value === "bigint") return value.toString();
  if (value?.type === "Buffer" && Array.isArray(value.data)) return Buffer.from(value.data).toString("hex");
  return value;
}

function say(event) {
  process.stdout.write(JSON.stringify(event, plain) + "\n");
}

// --- one connection, from connect to its end

const links = new Map();
const memories = new Map(); // of each device of this process: what was seen, and how it was confirmed

class Link {
  constructor(name, port, hello) {
    this.name = name;
    this.buffer = Buffer.alloc(0);
    this.largest = LARGEST;
    this.bound = new Map();
    this.seen = new Map();
    this.asked = new Map();
    this.lastReq = 0;
    this.confirm = "ack";
    this.back = BACK_OFF_MS;
    this.interval = 0;
    this.timers = {};
    this.socket = net.connect({ host: "127.0.0.1", port, noDelay: true });
    this.socket.on("data", (data) => this.read(data));
    this.socket.on("error", () => {});
    this.socket.on("close", () => this.end());
    if (hello.secret !== undefined) hello.secret = Buffer.from(hello.secret, "hex");
    this.send("HELLO", { v: 1, ...hello });
  }

  send(name, body) {
    this.write(frameOf(name, body));
  }

  write(bytes) {
    this.socket.write(bytes);
    this.schedulePing();
  }

  request(name, body) {
    const req = ++this.lastReq;
    if (name === "REGISTER" && !body.keep) {
      for (const [token, bound] of this.bound) {
        if (bound.app === body.app && bound.account !== (body.account ?? "")) this.bound.delete(token);
      }
    }
    if (name === "UNREGISTER") this.bound.delete(body.token);
    if (body.ids) body.ids = body.ids.map(BigInt);
    this.asked.set(req, { name, body });
    this.send(name, { req, ...body });
  }

  ping() {
    this.send("PING");
    const patience = Math.max(10, this.interval / 6) * 1000;
    this.timers.pong ??= setTimeout(() => this.break("no PONG"), patience);
  }

  schedulePing() {
    clearTimeout(this.timers.ping);
    if (this.interval) this.timers.ping = setTimeout(() => this.ping(), this.interval * 1000);
  }

  read(data) {
    clearTimeout(this.timers.pong);
    delete this.timers.pong;
    this.buffer = Buffer.concat([this.buffer, data]);
    try {
      for (let frame; (frame = firstFrame(this.buffer, this.largest)); ) {
        this.buffer = this.buffer.subarray(frame.end);
        this.take(frame);
      }
    } catch (error) {
      this.break(error.message);
    }
  }

  take({ type, packed }) {
    const name = NAMES[type];
    if (name === undefined) return;
    if (FROM_DEVICE.has(name)) throw new Broken(`${name} is no frame of the gateway's`);
    const body = packed.length ? unpack(packed) : null;
    const event = { link: this.name, frame: name, body };
    if (name === "WELCOME") {
      this.largest = Math.max(LARGEST, body.max_frame);
      this.saysWhole = body.whole ?? false;
      this.agreed(body.heartbeat);
      if (!memories.has(body.device)) memories.set(body.device, new Map());
      this.seen = memories.get(body.device);
    } else if (name === "TOKEN" || name === "DONE" || name === "FETCHED") {
      this.answered(name, body);
    } else if (name === "NOTIFY") {
      event.verdict = this.notified(body);
      body.id = String(body.id);
    } else if (name === "RECALL") {
      event.body = body.map(String);
    } else if (name === "ERROR" || name === "GOAWAY") {
      this.asked.delete(body.req ?? 0);
      this.back = waitAfter(name, body);
    }
    say(event);
  }

  agreed(interval) {
    this.interval = interval;
    this.schedulePing();
  }

  answered(name, body) {
    const asked = this.asked.get(body.req);
    const of = { TOKEN: ["REGISTER"], FETCHED: ["FETCH"], DONE: ["UNREGISTER", "STATE"] }[name];
    if (!of.includes(asked?.name)) throw new Broken(`${name} answers nothing`);
    this.asked.delete(body.req);
    if (name === "TOKEN") this.bound.set(body.token, { app: asked.body.app, account: asked.body.account ?? "" });
    if (name === "DONE" && body.heartbeat) this.agreed(body.heartbeat);
  }

  notified({ id, token = "", app = "", more = false }) {
    const known = token ? this.bound.has(token) : [...this.bound.values()].some((bound) => bound.app === app);
    if (!known) return "dropped";
    const source = `${token || "app " + app} ${id}`, light = `${source} light`;
    const isBody = () => token !== "" && this.seen.has(source) && this.seen.has(light);
    if (this.seen.has(source) || (more && this.seen.has(light))) {
      if (more && !this.seen.has(light)) this.seen.set(light, this.confirm);
      this.confirmed(this.seen.get(source) ?? this.seen.get(light), [id], isBody());
      return "again";
    }
    this.seen.set(more ? light : source, this.confirm);
    if (this.seen.size > REMEMBERED) this.seen.delete(this.seen.keys().next().value);
    this.confirmed(this.confirm, [id], isBody());
    return more ? "tip" : "message";
  }

  confirmed(how, ids, isBody = false) {
    if (how === "none") return;
    const whole = isBody && this.saysWhole;
    if (how === "shown" || !whole) this.send(how.toUpperCase(), ids);
    if (whole) this.send("WHOLE", ids);
  }

  break(why) {
    say({ link: this.name, broken: why });
    this.socket.destroy();
  }

  end() {
    clearTimeout(this.timers.ping);
    clearTimeout(this.timers.pong);
    this.interval = 0;
    if (links.get(this.name) === this) links.delete(this.name);
    say({ link: this.name, closed: true, back: this.back });
  }
}

function waitAfter(name, { retry = false, after_ms: after = 0, jitter_ms: jitter = 0 }) {
  if (!retry) return null;
  if (!after && !jitter) return BACK_OFF_MS;
  return [after, after + (name === "GOAWAY" ? jitter : after * 0.3)];
}

// --- orders

function obey({ do: what, link: name, ...order }) {
  if (what === "open") {
    links.set(name, new Link(name, order.port, order.hello ?? {}));
    return;
  }
  const link = links.get(name);
  if (!link) return; // its end is on its way to the tester
  if (what === "close") link.socket.destroy();
  else if (what === "raw") link.write(Buffer.from(order.hex, "hex"));
  else if (what === "ping") link.ping();
  else if (what === "confirm") link.confirm = order.how;
  else if (what === "ack" || what === "shown") link.confirmed(what, order.ids.map(BigInt));
  else link.request(what.toUpperCase(), order);
}

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => obey(JSON.parse(line)))
  .on("close", () => process.exit(0));
