// A Bluesky PDS, or the directory of identities (PLC) that it needs, on loopback: `node pds.mjs plc|pds`, with its
// settings in the environment; ends when it is told to, and keeps everything but the directory in a folder.
import { createRequire } from "node:module";
import fs from "node:fs";

const { PACKAGES, FOLDER, PLC_PORT, PDS_PORT, ROTATION_KEY, APPVIEW_URL, RATE_LIMITS } = process.env;
const require = createRequire(`${PACKAGES}/none.js`);

if (process.argv[2] === "plc") {
  const plc = require("@did-plc/server");
  const db = plc.Database.mock ? plc.Database.mock() : new plc.MockDatabase();
  const server = plc.PlcServer.create({ db, port: Number(PLC_PORT) });
  await server.start();
} else {
  const pds = require("@atproto/pds");
  fs.mkdirSync(`${FOLDER}/data/blobs`, { recursive: true });
  const env = {
    port: Number(PDS_PORT),
    hostname: "localhost",
    serviceHandleDomains: [".test"],
    adminPassword: "admin",
    jwtSecret: "a secret of the tour",
    plcRotationKeyK256PrivateKeyHex: ROTATION_KEY,
    dataDirectory: `${FOLDER}/data`,
    blobstoreDiskLocation: `${FOLDER}/data/blobs`,
    didPlcUrl: `http://localhost:${PLC_PORT}`,
    inviteRequired: false,
    devMode: true,
    disableSsrfProtection: true,
    rateLimitsEnabled: RATE_LIMITS === "yes",
    bskyAppViewUrl: APPVIEW_URL,
    bskyAppViewDid: "did:example:appview",
    modServiceUrl: "http://localhost:1",
    modServiceDid: "did:example:moderation",
  };
  const server = await pds.PDS.create(pds.envToCfg(env), pds.envToSecrets(env));
  await server.start();
}
