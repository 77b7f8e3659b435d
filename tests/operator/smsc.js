// A small SMSC over npm's smpp, another implementation of the protocol: ids, receipts, a binary message from a terminal,
// throttling. `node smsc.js`; a free port is printed. Numbers of messages from 1: the third is throttled once.
const smpp = require("smpp");

let count = 0;
const receipt = (id) =>
  `id:${id} sub:001 dlvrd:001 submit date:2611222300 done date:2611222301 stat:DELIVRD err:000 text:`;

const server = smpp.createServer({}, (session) => {
  session.on("error", () => {});
  session.on("bind_transceiver", (pdu) => {
    if (pdu.password !== "secret") return session.send(pdu.response({ command_status: smpp.ESME_RINVPASWD }));
    session.send(pdu.response({ system_id: "npm" }));
  });
  session.on("enquire_link", (pdu) => session.send(pdu.response()));
  session.on("unbind", (pdu) => (session.send(pdu.response()), session.close()));
  session.on("submit_sm", (pdu) => {
    count += 1;
    console.log(JSON.stringify({ count, esm: pdu.esm_class, coding: pdu.data_coding, npi: pdu.dest_addr_npi,
      udh: (pdu.short_message.udh || []).map((part) => part.toString("hex")),
      message: Buffer.from(pdu.short_message.message || "").toString("hex"), validity: pdu.validity_period }));
    if (count === 3) return session.send(pdu.response({ command_status: smpp.ESME_RTHROTTLED }));
    const id = `m${count}`;
    session.send(pdu.response({ message_id: id }));
    session.deliver_sm({ source_addr: pdu.destination_addr, destination_addr: pdu.source_addr, esm_class: 4,
      receipted_message_id: id, message_state: 2, short_message: { message: receipt(id) } });
    session.deliver_sm({ source_addr: pdu.destination_addr, destination_addr: "1", esm_class: 0x40, data_coding: 4,
      short_message: { udh: Buffer.from("0605043e820000", "hex"), message: Buffer.from([1, 2, 255]) } });
  });
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
